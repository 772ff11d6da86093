"""The report's plots, as SVG text that needs nothing else: fonts are the reader's own."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.report.series import Series, ValidatedRun
from benchmarks.serving.result import Window, mean_in_flight

mpl.use("svg")
_STYLE: Any = {  # matplotlib's own type lists every key
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # else ids are random and the same results give another file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7ec",
    "axes.edgecolor": "#98a2b3",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
mpl.rcParams.update(_STYLE)
_MIN_MS = 0.1  # two events that were read at once are no time apart, which no logarithm shows
_COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#854d0e", "#475569")


def latency_throughput(all_series: Sequence[Series]) -> str:
    """TTFT and TPOT over output tokens per second: what more load buys and costs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("ttft", "tpot"), strict=True):
        for color, series in zip(_COLORS, all_series, strict=False):
            runs = sorted((validated.run for validated in series.valid), key=lambda run: run.figures["output_tok_per_s"] or 0)
            x = [run.figures["output_tok_per_s"] for run in runs]
            for percent, line in ((50, "-"), (99, ":")):
                y = [run.figures[f"{name}_p{percent}_ms"] for run in runs]
                axes.plot(x, y, line, marker="o", ms=4, color=color, label=f"{series.name}, p{percent}")
        _finish(axes, name.upper(), "output tok/s", "ms", from_zero=True)
    return _svg(figure)


def distributions(runs: Sequence[ValidatedRun]) -> str:
    """Which share of requests (of events for ITL) took at most so long."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, ("ttft", "tpot", "itl", "e2e"), strict=True):
        for color, validated in zip(_COLORS, runs, strict=False):
            values, shares = getattr(validated.run, name).curve()
            axes.step(values, shares, where="post", color=color, lw=1.5, label=validated.name)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        lows = [low for validated in runs if (low := getattr(validated.run, name).percentile(0.5))]
        axes.set_xlim(left=0.8 * max(min(lows, default=1.0), _MIN_MS))
        axes.set_ylim(0, 1.02)
        _finish(axes, name.upper(), "ms", "share", legend=name == "ttft")
    return _svg(figure)


def timeline(runs: Sequence[ValidatedRun]) -> str:
    """Throughput, median TTFT and errors over the time of each run, in the colours of `distributions`."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1))
    for color, validated in zip(_COLORS, runs, strict=False):
        step, windows = validated.run.window_s, validated.run.windows
        at = [step * number for number in range(len(windows))]
        upper.step(at, [window.output_tokens / step for window in windows], where="post", color=color)
        middle.plot(at, [_median(window) for window in windows], ".-", ms=3, lw=1, color=color)
        lower.step(at, [window.errors / step for window in windows], where="post", color=color)
    _finish(upper, "Output tok/s", "", "tok/s", legend=False)
    _finish(middle, "TTFT p50 of the requests due then", "", "ms", legend=False)
    _finish(lower, "Errors", "seconds", "1/s", legend=False)
    for axes in (upper, middle, lower):
        axes.set_ylim(bottom=0)
    return _svg(figure)


def goodput(all_series: Sequence[Series]) -> str:
    """Requests within the SLO, beside all that were sent."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for color, series in zip(_COLORS, all_series, strict=False):
        points = sorted(
            (validated.run.sent / validated.run.elapsed_s, validated.run.figures["goodput_per_s"] or 0.0)
            for validated in series.valid
            if validated.run.good is not None
        )
        if points:
            axes.plot(*zip(*points, strict=True), "o-", ms=4, color=color, label=series.name)
            highest = max(highest, points[-1][0])
    axes.plot([0, highest], [0, highest], "--", color="#98a2b3", lw=1, label="all within the SLO")
    _finish(axes, "Goodput", "requests/s sent", "requests/s within the SLO", from_zero=True)
    return _svg(figure)


def roofline(all_series: Sequence[Series]) -> str | None:
    """Output tokens per second under what the chips can do with so many sequences at once; None without a known slice."""
    known = [series for series in all_series if series.limits]
    if not known:
        return None
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    batches = [2**exponent for exponent in range(11)]
    for color, series in zip(_COLORS, known, strict=False):
        assert series.limits
        contexts = [validated.run.min_prompt_tokens or 0 for validated in series.valid]
        context = min(contexts, default=0)
        bound = [series.limits.batch(batch, context).output_tok_per_s for batch in batches]
        label = f"{series.limits.name}: limit for {context:,} tokens of context"
        axes.plot(batches, bound, "-", color=color, lw=1, label=label)
        x = [max(mean_in_flight(validated.run), 0.1) for validated in series.valid]
        y = [validated.run.figures["output_tok_per_s"] or 0.0 for validated in series.valid]
        axes.plot(x, y, "o", ms=5, color=color, label=f"{series.name}, measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _finish(axes, "Roofline of decoding", "sequences at once (mean)", "output tok/s")
    return _svg(figure)


def _median(window: Window) -> float:
    median = window.ttft.percentile(50)
    return float("nan") if median is None else median


def _finish(axes: Axes, title: str, x: str, y: str, *, legend: bool = True, from_zero: bool = False) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if legend:
        axes.legend()
    if from_zero:
        axes.set(xlim=(0, None), ylim=(0, None))


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
