"""The report's plots, as SVG text that needs nothing else: fonts are the reader's own."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.report.series import Series
from benchmarks.serving.figures import Requests
from benchmarks.serving.validation import ValidatedRun

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
_HOVER = "hover: "
_WINDOWS = 120  # of a timeline
_MIN_MS = 0.1  # two events that were read at once are no time apart, which no logarithm shows
_COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#854d0e", "#475569")


def latency_throughput(all_series: Sequence[Series]) -> str:
    """TTFT and TPOT over output tokens per second: what more load buys and costs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("ttft", "tpot"), strict=True):
        for color, series in zip(_COLORS, all_series, strict=False):
            runs = sorted((validated.run for validated in series.valid), key=lambda run: run.figures["output_tok_per_s"] or 0)
            x = [run.figures["output_tok_per_s"] for run in runs]
            for percent, line, marker in ((50, "-", "o"), (99, ":", "^")):
                y = [run.figures[f"{name}_p{percent}_ms"] for run in runs]
                label = f"{series.name}, p{percent}"
                axes.plot(x, y, line, marker=marker, ms=5 if len(runs) > 1 else 8, color=color, label=label)
                hovered = zip(x, y, runs, strict=True)
                _hover(axes, [(a, b, f"{label}, {run.load.label}: {b:,.1f} ms") for a, b, run in hovered if a and b])
        _finish(axes, name.upper(), "output tok/s", "ms", from_zero=True)
    return _svg(figure)


def distributions(runs: Sequence[ValidatedRun]) -> str:
    """Which share of requests (of events for ITL) took at most so long."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 2).flat, ("ttft", "tpot", "itl", "e2e"), strict=True):
        lows: list[float] = []
        for color, validated in zip(_COLORS, runs, strict=False):
            assert validated.requests
            times = validated.requests.times(name)
            shares = np.linspace(0, 1, 200).tolist()
            values = times.quantiles(shares) if len(times.values) else []
            axes.step(values, shares[: len(values)], where="post", color=color, lw=1.5, label=validated.name)
            lows += values[:1]
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set_xlim(left=0.8 * max(min(lows, default=1.0), _MIN_MS))
        axes.set_ylim(0, 1.02)
        _finish(axes, name.upper(), "ms", "share", legend=name == "ttft")
    return _svg(figure)


def timeline(runs: Sequence[ValidatedRun]) -> str:
    """Throughput, median TTFT, errors and what the server said, over each run's time, in the colours of `distributions`."""
    sampled = any(validated.run.server for validated in runs)
    figure = Figure(figsize=(9, 7.2 if sampled else 5.6), layout="constrained")
    upper, middle, lower, *server = figure.subplots(3 + sampled, 1, sharex=True, height_ratios=(2, 2, 1, 1)[: 3 + sampled])
    for color, validated in zip(_COLORS, runs, strict=False):
        assert validated.requests
        at, rates, medians, errors = _windows(validated.requests)
        upper.step(at, rates, where="post", color=color)
        middle.plot(at, medians, ".-", ms=3, lw=1, color=color)
        lower.step(at, errors, where="post", color=color)
        samples = validated.run.server
        for name, line in (("running", "-"), ("waiting", ":")):
            for axes in server:
                axes.plot([each.at_s for each in samples], [getattr(each, name) for each in samples], line, color=color)
    _finish(upper, "Output tok/s", "", "tok/s", legend=False)
    _finish(middle, "TTFT p50 of the requests due then", "", "ms", legend=False)
    _finish(lower, "Errors", "" if server else "seconds", "1/s", legend=False)
    for axes in server:
        _finish(axes, "Requests that the server ran, and (dotted) had waiting, by its metrics", "seconds", "", legend=False)
    for axes in (upper, middle, lower, *server):
        axes.set_ylim(bottom=0)
    return _svg(figure)


def _windows(requests: Requests) -> tuple[list[float], list[float], list[float], list[float]]:
    """Starts of equal pieces of the run's time; tokens and errors per second and median TTFT in each."""
    count = min(_WINDOWS, max(1, len(requests.records) // 4))
    edges = np.linspace(0, requests.ended_s, count + 1)
    step = edges[1] - edges[0]
    ttft = requests.times("ttft")
    came = [record.intended + np.cumsum(record.events) / 1e6 for record in requests.ok]
    tokens = [record.tokens or [1.0] * len(record.events) for record in requests.ok]
    rates, _ = np.histogram(np.concatenate([*came, []]), edges, weights=np.concatenate([*tokens, []]))
    errors, _ = np.histogram([record.intended for record in requests.records if record.error], edges)
    places = np.minimum((requests.started[ttft.owners] / step).astype(int), count - 1)
    groups = (ttft.values[places == number] for number in range(count))
    medians = [float(np.median(group)) if len(group) else float("nan") for group in groups]
    return edges[:-1].tolist(), (rates / step).tolist(), medians, (errors / step).tolist()


def _hover(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Say what a point is to a reader who rests on it: an invisible mark with an id that `_svg` makes a title of."""
    for x, y, text in points:
        axes.plot([x], [y], "o", ms=12, alpha=0.0, gid=f"{_HOVER}{text}")


def goodput(all_series: Sequence[Series]) -> str:
    """Requests within the SLO, beside all that were sent."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for color, series in zip(_COLORS, all_series, strict=False):
        points = sorted(
            (run.figures["offered_per_s"] or run.figures["sent_per_s"] or 0.0, run.figures["goodput_per_s"] or 0.0)
            for run in (validated.run for validated in series.valid)
            if run.figures["goodput_per_s"] is not None
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
        context = min((int(each.requests.prompt_tokens.min()) for each in series.valid if each.requests), default=0)
        bound = [series.limits.batch(batch, context).output_tok_per_s for batch in batches]
        label = f"{series.limits.name}: limit for {context:,} tokens of context"
        axes.plot(batches, bound, "-", color=color, lw=1, label=label)
        x = [max(validated.run.figures["in_flight"] or 0.0, 0.1) for validated in series.valid]
        y = [validated.run.figures["output_tok_per_s"] or 0.0 for validated in series.valid]
        axes.plot(x, y, "o", ms=5, color=color, label=f"{series.name}, measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _finish(axes, "Roofline of decoding", "sequences at once (mean)", "output tok/s")
    return _svg(figure)


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
    return re.sub(rf'(<g id="{_HOVER}([^"]*)">)', r"<g><title>\2</title>", text[text.index("<svg") :])
