"""The report's tables as text: figures of each run, comparisons, cost, and the findings of result validation in groups."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.compare import Ratio, compare
from benchmarks.report.series import Series, ValidatedRun, valid_runs
from benchmarks.serving.measure import ATTAINED
from benchmarks.serving.result import STATISTICS, TIMES, Run, format_number
from benchmarks.serving.validation import Severity, best_rate

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


def groups(runs: Sequence[ValidatedRun], severity: Severity) -> list[Group]:
    """Findings of a severity, those that several runs share once."""
    names_by_reason: dict[str, list[str]] = {}
    for validated in runs:
        for finding in validated.findings:
            if finding.severity == severity:
                names_by_reason.setdefault(f"{finding.rule}: {finding.reason}", []).append(validated.name)
    count = len(runs)
    return [Group(reason, ["all runs"] if 1 < count == len(names) else names) for reason, names in names_by_reason.items()]


def throughput(all_series: Sequence[Series]) -> Table:
    """Responses, errors, rates and goodput of each run."""
    head = ["run", "responses", "errors", *_RATES, "cache hits", "within SLO/s", "share within SLO"]
    rows = []
    for validated in valid_runs(all_series):
        figures = validated.run.figures
        rates = [format_number(figures[name]) for name in _RATES.values()]
        quality = [percent(figures["cache_hit_rate"]), format_number(figures["goodput_per_s"]), percent(figures["attainment"])]
        rows.append([validated.name, f"{validated.run.completed:,}", percent(figures["error_rate"]), *rates, *quality])
    best = [
        f"{series.name}: {rate:g} requests/s is the highest rate with {ATTAINED:.0%} within the SLO"
        for series in all_series
        if (rate := best_rate(series.result))
    ]
    return Table("Throughput and goodput", head, rows, ". ".join(best))


def latency(all_series: Sequence[Series]) -> Table:
    """TTFT, TPOT, ITL and E2E of each run."""
    rows = []
    for validated in valid_runs(all_series):
        for name in TIMES:
            numbers = [format_number(validated.run.figures[f"{name}_{statistic}_ms"]) for statistic in STATISTICS]
            rows.append([validated.name if name == TIMES[0] else "", name.upper(), *numbers])
    return Table("Latency in ms", ["run", "", *STATISTICS], rows)


def comparisons(all_series: Sequence[Series]) -> list[Table]:
    """Ratios of each other result to the first."""
    first, *others = all_series
    head = ["load", "figure", first.name, "the other", "ratio", "95 % interval"]
    tables = []
    for other in others:
        rows = [_ratio_row(ratio) for ratio in compare(first, other)]
        note = "Ratios are the other over the first; * where the interval leaves out 1. Bootstrap over pieces of time."
        if rows:
            tables.append(Table(f"{other.name} against {first.name}", head, rows, note))
    return tables


def costs(all_series: Sequence[Series], price: float | None, chips: int | None) -> Table | None:
    """The cost of tokens; None without a price, or where the number of chips is unknown."""
    rows = []
    for series in all_series:
        count = chips or (series.limits.chips if series.limits else None)
        for validated in series.valid if price and count else ():
            assert price
            assert count
            if amounts := cost(validated.run, count, price):
                rows.append([validated.name, str(count), *(f"{amount:,.2f}" for amount in amounts)])
    head = ["run", "chips", "per million output tokens", "per million tokens, prompts included"]
    note = f"At {price:g} per chip and hour, were the chips as busy as in the run all the time." if price else ""
    return Table("Cost", head, rows, note) if rows else None


def cost(run: Run, chips: int, price: float) -> tuple[float, float] | None:
    """Cost of a million tokens in the currency of the price, which is per chip and hour; None for a run without tokens.

    First all of the cost laid on output tokens, then laid on prompt and output tokens alike.
    """
    output, total = run.figures["output_tok_per_s"], run.figures["total_tok_per_s"]
    if not output or not total:
        return None
    per_second = chips * price / 3600
    return 1e6 * per_second / output, 1e6 * per_second / total


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ratio_row(ratio: Ratio) -> list[str]:
    interval = "too short" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
    figure = ratio.figure.removesuffix("_ms").replace("_per_s", "/s").replace("_", " ")
    value = f"{ratio.value:.2f}{' *' * ratio.is_clear}"
    return [ratio.load, figure, format_number(ratio.first), format_number(ratio.second), value, interval]
