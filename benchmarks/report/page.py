"""The report as a self-contained HTML page and as Markdown: the same tables, plots only in the page."""

import io
import json
from collections.abc import Sequence
from csv import writer
from dataclasses import dataclass
from pathlib import Path

import jinja2

from benchmarks.report import plots
from benchmarks.report.series import Series, valid_runs
from benchmarks.report.tables import Table, comparisons, costs, key_figures, latency, runs_by_finding, throughput

_MAX_LINES = 8  # in a plot; more cannot be distinguished


@dataclass(frozen=True)
class Report:
    """The content of both forms."""

    title: str
    subtitle: str
    invalid: dict[str, str]
    """The names of the runs with each finding, as in..."""
    flagged: dict[str, str]
    tables: list[Table]


def build(all_series: Sequence[Series], price: float | None, watts: float | None, chips: int | None) -> Report:
    """`price` is per chip and hour, `watts` per chip; `chips` where the result does not have them."""
    settings = [series.result.setting for series in all_series]
    models = ", ".join(dict.fromkeys(setting.model for setting in settings))
    days = sorted({run.started_at[:10] for series in all_series for run in series.result.runs if run.started_at[:1].isdigit()})
    profiles = ", ".join(dict.fromkeys(profile.name for setting in settings for profile in setting.profiles))
    runs = [validated for series in all_series for validated in series.runs]
    valid = valid_runs(all_series)
    tables = [key_figures(all_series), throughput(all_series), latency(all_series), *comparisons(all_series)] if valid else []
    tables += [costs(all_series, price, watts, chips)] if valid else []
    when = " to ".join(dict.fromkeys(days[:1] + days[-1:])) or "day not known"
    subtitle = f"Profile {profiles or 'not known'}; {len(valid)} of {len(runs)} runs shown; {when}"
    return Report(f"Serving {models}", subtitle, runs_by_finding(runs, "invalid"), runs_by_finding(valid, "flagged"), tables)


def html(report: Report, all_series: Sequence[Series]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    settings = [(series.name, json.dumps(series.result.setting.model_dump(mode="json"), indent=2)) for series in all_series]
    return environment.get_template("page.html.jinja").render(**vars(report), plots=_plots(all_series), settings=settings)


def markdown(report: Report) -> str:
    """Without plots."""
    lines = [f"# {report.title}", "", report.subtitle, ""]
    lines += [f"- **Invalid**: {names}: {reason}" for reason, names in report.invalid.items()]
    lines += [f"- Flagged: {names}: {reason}" for reason, names in report.flagged.items()]
    for table in report.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        if table.rows:
            lines += [_row(table.head), _row(["---", *["---:"] * (len(table.head) - 1)]), *map(_row, table.rows)]
    return "\n".join(lines) + "\n"


def csv(all_series: Sequence[Series]) -> str:
    """Every figure of every run, also of the invalid ones, which are called so."""
    out = io.StringIO()
    runs = [(series, validated) for series in all_series for validated in series.runs]
    names = dict.fromkeys(name for _, validated in runs for name in validated.run.figures)
    table = writer(out, lineterminator="\n")
    table.writerow(["result", "load", "repeat", "verdict", "sent", "completed", *names])
    for series, validated in runs:
        run, verdict = validated.run, "valid" if validated.is_valid else "invalid"
        values = [run.figures.get(name) for name in names]
        table.writerow([series.name, run.load.label, run.repeat, verdict, run.sent, run.completed, *values])
    return out.getvalue()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plots(all_series: Sequence[Series]) -> list[tuple[str, str, str]]:
    """Title, note and SVG of each."""
    all_series = [series for series in all_series if series.valid][:_MAX_LINES]
    runs = [validated for validated in valid_runs(all_series) if validated.requests][:_MAX_LINES]
    if not all_series:
        return []
    curve = "Each point is a run: what more load buys in throughput, and what it costs in latency."
    made = [("Latency and throughput", curve, plots.latency_throughput(all_series))]
    if any(validated.run.figures.get("goodput_per_s") is not None for validated in valid_runs(all_series)):
        note = "Requests within the SLO per second; on the dashed line all of them are."
        made.append(("Goodput", note, plots.goodput(all_series)))
    if roofline := plots.roofline(all_series):
        note = (
            "The line is the most that the chips' memory and arithmetic allow, at their nominal peak and without communication."
        )
        made.append(("Roofline", note, roofline))
    if not runs:
        return made
    made.append(("Distributions", f"At most {_MAX_LINES} runs are drawn.", plots.distributions(runs)))
    note = "From each run's start, in the colours of the distributions; the fall at the end is the last responses."
    return [*made, ("Timeline", note, plots.timeline(runs))]
