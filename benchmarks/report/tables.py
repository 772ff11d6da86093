"""The report's tables as text: figures of each run, comparisons, cost, and the gate's findings in groups."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.compare import Ratio, compare
from benchmarks.report.cost import cost
from benchmarks.report.series import Examined, Series
from benchmarks.serving.figures import TIMES
from benchmarks.serving.measure import ATTAINED
from benchmarks.serving.validation import Finding, best_rate

_RATES = {"requests/s": "requests_per_s", "output tok/s": "output_tok_per_s", "all tok/s": "total_tok_per_s"}


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Runs that have the same finding."""

    reason: str
    runs: list[str]


def groups(runs: Sequence[Examined], severity: str) -> list[Group]:
    """Findings of a severity, those that several runs share once."""
    found: dict[str, list[str]] = {}
    for one in runs:
        findings: list[Finding] = one.refusals if severity == "refused" else one.marks
        for finding in findings:
            found.setdefault(f"{finding.rule}: {finding.reason}", []).append(one.name)
    many = len(runs) > 1
    return [Group(reason, ["all runs"] if many and len(names) == len(runs) else names) for reason, names in found.items()]


def throughput(all_series: Sequence[Series]) -> Table:
    """What was sent and what came of it."""
    head = ["run", "answers", "errors", *_RATES, "cache hits", "within SLO/s", "share within SLO"]
    rows = []
    for one in _shown(all_series):
        figures = one.run.figures
        rates = [number(figures[name]) for name in _RATES.values()]
        quality = [percent(figures["cache_hit_rate"]), number(figures["goodput_per_s"]), percent(figures["attainment"])]
        rows.append([one.name, f"{one.run.completed:,}", percent(figures["error_rate"]), *rates, *quality])
    best = [
        f"{series.name}: {found:g} requests/s is the highest rate with {ATTAINED:.0%} within the SLO"
        for series in all_series
        if (found := best_rate(series.result))
    ]
    return Table("Throughput and goodput", head, rows, ". ".join(best))


def latency(all_series: Sequence[Series]) -> Table:
    """TTFT, TPOT, ITL and E2E of each run."""
    statistics = ("mean", "p50", "p90", "p99")
    head = ["run", "", *statistics]
    rows = [
        [one.name if name == "ttft" else "", name.upper(), *(number(one.run.figures[f"{name}_{s}_ms"]) for s in statistics)]
        for one in _shown(all_series)
        for name in TIMES
    ]
    return Table("Latency in ms", head, rows)


def comparisons(all_series: Sequence[Series]) -> list[Table]:
    """The first result against each other one."""
    first, *others = all_series
    head = ["load", "figure", first.name, "the other", "ratio", "95 % interval"]
    found = []
    for other in others:
        rows = [_ratio_row(ratio) for ratio in compare(first, other)]
        note = "Ratios are the other over the first; * where the interval leaves out 1. Bootstrap over pieces of time."
        if rows:
            found.append(Table(f"{other.name} against {first.name}", head, rows, note))
    return found


def costs(all_series: Sequence[Series], price: float | None, chips: int | None) -> Table | None:
    """None without a price, or where nobody knows how many chips there are."""
    rows = []
    for series in all_series:
        count = chips or (series.limits.chips if series.limits else None)
        for one in series.shown if price and count else ():
            assert price
            assert count
            if found := cost(one.run, count, price):
                amounts = [f"{found.per_million_output:,.2f}", f"{found.per_million_total:,.2f}"]
                rows.append([one.name, str(count), *amounts])
    head = ["run", "chips", "per million output tokens", "per million tokens, prompts included"]
    note = f"At {price:g} per chip and hour, were the chips as busy as in the run all the time." if price else ""
    return Table("Cost", head, rows, note) if rows else None


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _shown(all_series: Sequence[Series]) -> list[Examined]:
    return [one for series in all_series for one in series.shown]


def _ratio_row(ratio: Ratio) -> list[str]:
    interval = "too short" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
    figure = ratio.figure.removesuffix("_ms").replace("_per_s", "/s").replace("_", " ")
    return [
        ratio.load,
        figure,
        number(ratio.first),
        number(ratio.second),
        f"{ratio.value:.2f}{' *' * ratio.is_clear}",
        interval,
    ]
