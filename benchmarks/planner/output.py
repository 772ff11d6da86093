"""A plan for people (tables and sentences, by rich in a terminal, else plain Markdown) and for programs (JSON).

docs/layouts.md explains the columns and the keys.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from apps.slice.memory import KvLayout, checkpoint_bytes
from apps.slice.topology import GIB
from benchmarks.planner.candidates import Note
from benchmarks.planner.case import Case, Result, difference
from benchmarks.planner.plan import CONTEXTS, UTILIZATION, PlanRequest, Range, Row, usd_per_million_output_tokens
from benchmarks.planner.predict import Point
from benchmarks.planner.recommend import Advice

Compiled = Mapping[str, tuple[Case, Result]]
"""The compiler's results by the layout's name; empty where nothing was compiled."""
Table = list[list[str]]
"""Rows of cells; the first row is the head."""
Plain = dict[str, Any]
_LAYOUT_KEYS = ("tensor_parallel", "data_parallel", "pipeline_parallel", "dtype", "kv_dtype")


def table(rows: Sequence[Row], request: PlanRequest) -> Table:
    """The candidates that fit."""
    contexts = "/".join(f"{context // 1024}K" for context in CONTEXTS)
    head = ["layout", "upstream", "weights GiB", "KV GiB", f"sequences {contexts}", "with window", "TPOT ms alone"]
    head += ["TTFT ms alone", "requests/s in SLO", "output tok/s"]
    head += [*(["$ per M output"] if request.usd_per_chip_hour is not None else []), "notes"]
    numbers = {note: number for number, note in enumerate(_notes(rows), 1)}
    return [head, *(_cells(row, request, numbers) for row in rows if row.fits)]


def compiled_table(compiled: Compiled) -> Table:
    """The TPU compiler's results beside the formula."""
    head = ["layout", "sequences", "formula GiB", "compiler GiB", "difference", "fits", "collectives in a step"]
    return [[*head, "compiled in s"], *(_compiled_cells(name, *pair) for name, pair in compiled.items())]


def sentences(rows: Sequence[Row], request: PlanRequest, advice: Advice, compiled: Compiled) -> list[str]:
    """The paragraphs below the table."""
    chosen = f"**Recommended: {advice.choice.candidate.name}.** {advice.why}" if advice.choice else f"**None.** {advice.why}"
    instead = [f"Or: {text}" for text in advice.instead]
    misfits = ", ".join(row.candidate.name for row in rows if not row.fits)
    start = f"A start reads {checkpoint_bytes(request.shape) / 1e9:.1f} GB from the bucket whatever the layout is"
    memory = (
        f"GiB are per chip, of the stage that has the most; the engine takes {UTILIZATION:.0%} of what the compiler lets a "
        "program use. `sequences`: the most of each length at once. `with window`: what would fit if sliding layers kept "
        "their window only and each head were stored once, which vLLM TPU does not do. Times and rates are predictions, "
        f"slow-fast. {start}, as int8 weights are made while loading."
    )
    notes = [f"{number}. {note.text} ({note.source})" for number, note in enumerate(_notes(rows), 1)]
    unfit = [f"Do not fit: {misfits}."] if misfits else []
    risk = [advice.risk] if advice.risk else []
    return [chosen, *risk, *instead, *unfit, *_consistency(compiled), memory, "\n".join(notes)]


def memory_cells(case: Case, result: Result) -> list[str]:
    """Memory by the formula and by the compiler in GiB, and their difference."""
    sizes = (case.predicted.total, result.total_bytes)
    return [*(f"{size / GIB:.2f}" for size in sizes), f"{difference(case, result):+.1%}"]


def markdown(rows: Table) -> str:
    """A table in Markdown, columns padded so that it can also be read as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def show(tables: Sequence[Table], paragraphs: Sequence[str], *, plain: bool) -> None:
    """Print for a person's terminal, or as plain Markdown."""
    if plain:
        print("\n\n".join([*map(markdown, tables), *paragraphs]))
        return
    from rich import box
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table as Grid

    console = Console()
    for head, *rows in tables:
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in head:
            is_text = name in ("layout", "upstream", "notes", "collectives in a step")
            grid.add_column(name, justify="left" if is_text else "right", no_wrap=name == "layout", overflow="fold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    console.print(Markdown("\n\n".join(paragraphs)))


def as_json(rows: Sequence[Row], request: PlanRequest, advice: Advice, compiled: Compiled) -> Plain:
    """One object with the request, every layout, the advice and the compiler's results (null where nothing was compiled)."""
    return {
        "question": _request_json(request),
        "layouts": [_row_json(row, request, compiled.get(row.candidate.name)) for row in rows],
        "recommended": advice.choice.candidate.name if advice.choice else None,
        "runner_up": advice.runner_up.candidate.name if advice.runner_up else None,
        "why": advice.why,
        "risk": advice.risk,
        "instead": list(advice.instead),
    }


def _consistency(compiled: Compiled) -> Iterator[str]:
    if not compiled:
        return
    worst = max((difference(case, result) for case, result in compiled.values()), key=abs)
    refused = [name for name, (_, result) in compiled.items() if not result.fits]
    verdict = f"it refuses {', '.join(refused)}" if refused else "it accepts all of them"
    yield (
        f"Compiled: decoding as many sequences of {CONTEXTS[0]:,} tokens as the table has, without the vision encoder; "
        f"{verdict}. Predicted and compiled memory differ by {abs(worst):.1%} at most."
    )


def _notes(rows: Iterable[Row]) -> list[Note]:
    return list(dict.fromkeys(note for row in rows if row.fits for note in row.candidate.notes))


def _cells(row: Row, request: PlanRequest, numbers: Mapping[Note, int]) -> list[str]:
    load = row.within_slo
    cost = (
        _range(load, lambda point: f"{usd_per_million_output_tokens(point, request):.2f}") if request.usd_per_chip_hour else ""
    )
    return [
        row.candidate.name,
        row.candidate.status.value,
        f"{row.weight_bytes / GIB:.1f}",
        f"{row.kv_budget_bytes / GIB:.1f}",
        *("/".join(str(row.sequences[context][kv]) for context in CONTEXTS) for kv in (KvLayout.VLLM_TPU, KvLayout.IDEAL)),
        _range(row.single_stream, lambda point: f"{point.tpot_s * 1000:.1f}"),
        _range(row.single_stream, lambda point: f"{point.ttft_s * 1000:.0f}"),
        _range(load, lambda point: f"{point.requests_per_s:.1f}"),
        _range(load, lambda point: f"{point.output_tok_per_s:,.0f}"),
        *([cost] if cost else []),
        " ".join(map(str, sorted(numbers[note] for note in row.candidate.notes))),
    ]


def _range(range_: Range, text: Callable[[Point], str]) -> str:
    low, high = (text(end) if end else "none" for end in (range_.slow, range_.fast))
    return low if low == high else f"{low}-{high}"


def _compiled_cells(name: str, case: Case, result: Result) -> list[str]:
    return [
        name,
        f"{case.sequences}",
        *memory_cells(case, result),
        "yes" if result.fits else "no",
        ", ".join(f"{count} {kind}" for kind, count in (result.collectives or {}).items() if count),
        f"{result.compile_seconds:.0f}",
    ]


def _request_json(request: PlanRequest) -> Plain:
    return {
        "model": request.model,
        "accelerator": request.on.generation.name,
        "topology": request.on.topology,
        "chips": request.on.chips,
        "hosts": request.on.hosts,
        "slo": {name: limit if isfinite(limit) else None for name, limit in asdict(request.slo).items()},
        "prompt_tokens": request.work.prompt,
        "output_tokens": request.work.output,
        "max_context_tokens": request.max_context,
        "usd_per_chip_hour": request.usd_per_chip_hour,
        "bucket_bytes": checkpoint_bytes(request.shape),
    }


def _row_json(row: Row, request: PlanRequest, compiled: tuple[Case, Result] | None) -> Plain:
    layout = row.candidate.layout
    return {
        "name": row.candidate.name,
        **{name: getattr(layout, name) for name in _LAYOUT_KEYS},
        "upstream": row.candidate.status.value,
        "notes": [asdict(note) for note in row.candidate.notes],
        "fits": row.fits,
        "weight_bytes_per_chip": round(row.weight_bytes),
        "kv_budget_bytes_per_chip": round(row.kv_budget_bytes),
        "step_bytes_per_chip": round(row.program_bytes),
        "longest_request_tokens": row.longest_request_tokens,
        "sequences": {str(context): counts[KvLayout.VLLM_TPU] for context, counts in row.sequences.items()},
        "sequences_with_window": {str(context): counts[KvLayout.IDEAL] for context, counts in row.sequences.items()},
        "single_stream": asdict(row.single_stream),
        "within_slo": {
            end: point and {**point, "usd_per_million_output_tokens": usd_per_million_output_tokens(Point(**point), request)}
            for end, point in asdict(row.within_slo).items()
        },
        "compiled": compiled and _compiled_json(*compiled),
    }


def _compiled_json(case: Case, result: Result) -> Plain:
    predicted = {"sequences": case.sequences, "context": case.context, "predicted_bytes": round(case.predicted.total)}
    return predicted | {"difference": difference(case, result)} | asdict(result)
