"""The report as a self-contained HTML page and as Markdown: the same tables, plots only in the page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from benchmarks.report import plots
from benchmarks.report.series import Series
from benchmarks.report.tables import Group, Table, comparisons, costs, groups, latency, throughput

_MOST = 8  # lines in a plot; more cannot be told apart


@dataclass(frozen=True)
class _Plot:
    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Report:
    """What both forms are made of."""

    title: str
    subtitle: str
    refused: list[Group]
    marked: list[Group]
    tables: list[Table]


def build(all_series: Sequence[Series], price: float | None, chips: int | None) -> Report:
    """`price` is per chip and hour; `chips` where the result does not tell them."""
    settings = [series.result.setting for series in all_series]
    models = ", ".join(dict.fromkeys(setting.model for setting in settings))
    days = sorted({run.started_at[:10] for series in all_series for run in series.result.runs})
    profiles = ", ".join(dict.fromkeys(setting.profile.name for setting in settings))
    examined = [one for series in all_series for one in series.examined]
    shown = [one for series in all_series for one in series.shown]
    tables = [throughput(all_series), latency(all_series), *comparisons(all_series)] if shown else []
    if cost := costs(all_series, price, chips):
        tables.append(cost)
    subtitle = (
        f"Profile {profiles}; {len(shown)} of {len(examined)} runs shown; {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    )
    return Report(f"Serving {models}", subtitle, groups(examined, "refused"), groups(shown, "marked"), tables)


def html(report: Report, all_series: Sequence[Series]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    settings = [(series.name, json.dumps(series.result.setting.model_dump(mode="json"), indent=2)) for series in all_series]
    return environment.get_template("page.html.jinja").render(**vars(report), plots=_plots(all_series), settings=settings)


def markdown(report: Report) -> str:
    """Without plots."""
    lines = [f"# {report.title}", "", report.subtitle, ""]
    lines += [f"- **Refused**: {'; '.join(group.runs)}: {group.reason}" for group in report.refused]
    lines += [f"- Marked: {'; '.join(group.runs)}: {group.reason}" for group in report.marked]
    for table in report.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += [_row(table.head), _row(["---", *["---:"] * (len(table.head) - 1)]), *map(_row, table.rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plots(all_series: Sequence[Series]) -> list[_Plot]:
    all_series = [series for series in all_series if series.shown]
    runs = [one for series in all_series for one in series.shown][:_MOST]
    if not runs:
        return []
    curve = "Each point is a run: what more load buys in throughput, and what it costs in latency."
    found = [_Plot("Latency and throughput", curve, plots.latency_throughput(all_series))]
    if any(one.run.good is not None for one in runs):
        note = "Requests within the SLO per second; on the dashed line all of them are."
        found.append(_Plot("Goodput", note, plots.goodput(all_series)))
    if roofline := plots.roofline(all_series):
        note = (
            "The line is what the chips' memory and arithmetic allow at most, at their nominal peak and without communication."
        )
        found.append(_Plot("Roofline", note, roofline))
    found.append(_Plot("Distributions", f"At most {_MOST} runs are drawn.", plots.distributions(runs)))
    found.append(
        _Plot(
            "Timeline",
            "From each run's start, in the colours of the distributions; the fall at the end is the last answers.",
            plots.timeline(runs),
        )
    )
    return found
