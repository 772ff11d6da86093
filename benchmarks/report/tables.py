"""The report's tables as text: figures of each run, comparisons, cost, and the findings of result validation in groups."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.compare import MIN_REPEATS, Ratio, compare, intervals, repeated
from benchmarks.report.series import Series, valid_runs
from benchmarks.serving.answers import Severity
from benchmarks.serving.result import STATISTICS, Run, format_number, times_of
from benchmarks.serving.sweep import ATTAINED
from benchmarks.serving.validation import ValidatedRun, is_valid_best

_KEY = ("requests_per_s", "output_tok_per_s", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")
_RATES = {
    "offered/s": "offered_per_s",
    "sent/s": "sent_per_s",
    "answered/s": "requests_per_s",
    "output tok/s": "output_tok_per_s",
    "all tok/s": "total_tok_per_s",
}


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def runs_by_finding(runs: Sequence[ValidatedRun], severity: Severity) -> dict[str, str]:
    """The names of the runs that have each finding of a severity."""
    names_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for validated in runs:
        for finding in validated.findings:
            if finding.severity == severity:
                names_by_reason[f"{finding.rule}: {finding.reason}"].append(validated.name)
    return {
        reason: "all runs" if 1 < len(runs) == len(names) else "; ".join(names) for reason, names in names_by_reason.items()
    }


def key_figures(all_series: Sequence[Series]) -> Table:
    """What decides, a row for each load: of repeated runs the mean with its interval, else the interval within the run."""
    slo = any(series.result.setting.slo.is_set for series in all_series)
    names = [*_KEY, "goodput_per_s"] if slo else list(_KEY)
    rows = []
    for series in all_series:
        by_load: defaultdict[str, list[ValidatedRun]] = defaultdict(list)
        for validated in series.valid:
            by_load[validated.run.load.label].append(validated)
        for label, runs in by_load.items():
            cells = [_with_interval(runs, name, series) for name in names]
            rows.append([f"{series.name}, {label}", str(len(runs)), *cells])
    head = ["load", "runs", *(_title(name) for name in names)]
    best = [
        f"{series.name}: {best.rate:g} requests/s is the highest rate with {ATTAINED:.0%} within the SLO in two runs "
        f"({format_number(best.achieved_per_s)} answered; the knee is at {best.knee_per_s or 0:g})"
        for series in all_series
        if (best := series.result.best) and is_valid_best(best, series.runs)
    ]
    note = f"With 95 % intervals: over {MIN_REPEATS} or more repeated runs, else over the time within the run."
    return Table("Key figures", head, rows, ". ".join([*best, note]))


def _with_interval(runs: Sequence[ValidatedRun], figure: str, series: Series) -> str:
    values = [value for validated in runs if (value := validated.run.figures.get(figure)) is not None]
    if not values:
        return "-"
    bounds = repeated(runs, figure)
    if bounds is None and len(runs) == 1:
        bounds = intervals(runs[0], series.result.setting.slo).get(figure)
    interval = f" ± {format_number((bounds[1] - bounds[0]) / 2)}" if bounds else ""
    return format_number(sum(values) / len(values)) + interval


def _title(figure: str) -> str:
    name, _, unit = figure.partition("_") if figure.endswith("_ms") else (figure, "", "")
    if unit:
        return f"{name.upper()} {unit.removesuffix('_ms')}, ms"
    return {"goodput_per_s": "within SLO/s", "requests_per_s": "answered/s", "output_tok_per_s": "output tok/s"}[figure]


def throughput(all_series: Sequence[Series]) -> Table:
    """Responses, errors, rates and goodput of each run."""
    head = ["run", "responses", "errors", *_RATES, "drain s", "cache hits", "share within SLO"]
    rows = []
    for validated in valid_runs(all_series):
        figures = validated.run.figures
        rates = [format_number(figures[name]) for name in _RATES.values()]
        quality = [format_number(figures["drain_s"]), percent(figures["cache_hit_rate"]), percent(figures["attainment"])]
        rows.append([validated.name, f"{validated.run.completed:,}", percent(figures["error_rate"]), *rates, *quality])
    return Table("Throughput", head, rows, "Rates are of the steady state; what was offered and sent is of the whole load.")


def latency(all_series: Sequence[Series]) -> Table:
    """Every kind of time of each run."""
    rows = []
    for validated in valid_runs(all_series):
        times = times_of(validated.run)
        rows += [[validated.name if row is times[0] else "", *row] for row in times]
    return Table("Latency in ms", ["run", "", *STATISTICS], rows)


def comparisons(all_series: Sequence[Series]) -> list[Table]:
    """Ratios of each other result to the first."""
    first, *others = all_series
    head = ["load", "figure", first.name, "the other", "ratio", "95 % interval"]
    tables = []
    for other in others:
        rows = [_ratio_row(ratio) for ratio in compare(first, other)]
        note = (
            f"Ratios are the other over the first; * where the interval, over {MIN_REPEATS} or more runs of each, leaves out 1."
        )
        if rows:
            tables.append(Table(f"{other.name} against {first.name}", head, rows, note))
    return tables


def costs(all_series: Sequence[Series], price: float | None, watts: float | None, chips: int | None) -> Table:
    """The cost and energy of tokens, or why they are not known. `price` is per chip and hour, `watts` per chip."""
    given = ((price, 1.0, "cost", "per chip and hour"), (watts, 0.0036, "MJ", "W per chip"))  # W x s / 1e6 = MJ
    kinds = [(amount, scale, what, unit) for amount, scale, what, unit in given if amount]
    if not kinds:
        return Table("Cost and energy", [], [], "Not known: no price or power was given (--price, --watts).")
    rows = []
    for series in all_series:
        count = chips or (series.limits.chips if series.limits else 0)
        for validated in series.valid if count else ():
            amounts = [each for amount, scale, *_ in kinds for each in cost(validated.run, count, scale * amount) or ()]
            if amounts:
                rows.append([validated.name, str(count), *(f"{each:,.2f}" for each in amounts)])
    if not rows:
        why = "the number of chips is not known: --chips N, or measure with --config"
        return Table("Cost and energy", [], [], f"Not known: {why}.")
    head = ["run", "chips"]
    for *_, what, _ in kinds:
        head += [f"{what} per million output tokens", f"{what} per million tokens, prompts included"]
    stated = " and ".join(f"{amount:g} {unit}" for amount, *_, unit in kinds)
    return Table("Cost and energy", head, rows, f"At {stated}, were the chips as busy as in the run all the time.")


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
    interval = f"{ratio.bounds[0]:.2f} to {ratio.bounds[1]:.2f}" if ratio.bounds else f"fewer than {MIN_REPEATS} runs"
    figure = ratio.figure.removesuffix("_ms").replace("_per_s", "/s").replace("_", " ")
    value = f"{ratio.value:.2f}{' *' * ratio.is_clear}"
    return [ratio.load, figure, format_number(ratio.first), format_number(ratio.second), value, interval]
