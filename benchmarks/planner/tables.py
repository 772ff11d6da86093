"""A plan as a table and sentences: by rich in a terminal, else plain Markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from apps.slice.memory import KvLayout, checkpoint_bytes
from apps.slice.topology import GIB
from benchmarks.planner.agreement import difference
from benchmarks.planner.case import Case, Result
from benchmarks.planner.plan import CONTEXTS, UTILIZATION, Question, Range, Row, usd_per_million_output_tokens
from benchmarks.planner.predict import Point
from benchmarks.planner.recommend import Advice

Compiled = Mapping[str, tuple[Case, Result]]
"""What the compiler said, by the layout's name; empty where it was not asked."""
Table = list[list[str]]
"""Rows of cells; the first row is the head."""


def table(rows: Sequence[Row], question: Question) -> Table:
    """The candidates that fit."""
    head = [
        "layout",
        "upstream",
        "weights GiB",
        "KV GiB",
        f"sequences {'/'.join(f'{context // 1024}K' for context in CONTEXTS)}",
        "with window",
        "TPOT ms alone",
        "TTFT ms alone",
        "requests/s in SLO",
        "output tok/s",
        *(["$ per M output"] if question.usd_per_chip_hour is not None else []),
        "notes",
    ]
    numbers = {note: number for number, note in enumerate(_notes(rows), 1)}
    return [head, *(_cells(row, question, numbers) for row in rows if row.fits)]


def compiled_table(compiled: Compiled) -> Table:
    """What the TPU compiler said, beside the formula."""
    head = [
        "layout",
        "sequences",
        "formula GiB",
        "compiler GiB",
        "difference",
        "fits",
        "collectives in a step",
        "compiled in s",
    ]
    return [head, *(_compiled(name, *one) for name, one in compiled.items())]


def sentences(rows: Sequence[Row], question: Question, advice: Advice, compiled: Compiled) -> list[str]:
    """What is said below the table, paragraph by paragraph."""
    chosen = f"**Recommended: {advice.choice.candidate.name}.** {advice.why}" if advice.choice else f"**None.** {advice.why}"
    instead = [f"Or: {text}" for text in advice.instead]
    misfits = ", ".join(row.candidate.name for row in rows if not row.fits)
    start = f"A start reads {checkpoint_bytes(question.shape) / 1e9:.1f} GB from the bucket whatever the layout is"
    memory = (
        f"GiB are per chip, of the stage that has the most; the engine takes {UTILIZATION:.0%} of what the compiler lets a "
        "program use. `sequences`: the most of each length at once. `with window`: what would fit if sliding layers kept "
        "their window only and each head were stored once, which vLLM TPU does not do. Times and rates are predictions, "
        f"slow-fast. {start}, as int8 weights are made while loading."
    )
    notes = [f"{number}. {text} ({source})" for number, (text, source) in enumerate(_notes(rows), 1)]
    unfit = [f"Do not fit: {misfits}."] if misfits else []
    risk = [advice.risk] if advice.risk else []
    return [chosen, *risk, *instead, *unfit, *_agreement(compiled), memory, "\n".join(notes)]


def markdown(found: Table) -> str:
    """A table in Markdown, columns padded so that it can also be read as it is."""
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in found]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def show(tables: Iterable[Table], paragraphs: Iterable[str]) -> None:
    """Print for a person's terminal."""
    from rich import box
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table as Grid

    console = Console()
    for found in tables:
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in found[0]:
            is_text = name in ("layout", "upstream", "notes", "collectives in a step")
            grid.add_column(name, justify="left" if is_text else "right", no_wrap=name == "layout", overflow="fold")
        for row in found[1:]:
            grid.add_row(*row)
        console.print(grid)
    console.print(Markdown("\n\n".join(paragraphs)))


def _agreement(compiled: Compiled) -> Iterator[str]:
    if not compiled:
        return
    worst = max((difference(*one) for one in compiled.values()), key=abs)
    refused = [name for name, (_, result) in compiled.items() if not result.fits]
    verdict = f"it refuses {', '.join(refused)}" if refused else "it accepts all of them"
    yield (
        f"Compiled: decoding as many sequences of {CONTEXTS[0]:,} tokens as the table says, without the vision encoder; "
        f"{verdict}. Predicted and compiled memory differ by {abs(worst):.1%} at most."
    )


def _notes(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((note.text, note.source) for row in rows if row.fits for note in row.candidate.notes))


def _cells(row: Row, question: Question, numbers: Mapping[tuple[str, str], int]) -> list[str]:
    load = row.within_slo
    return [
        row.candidate.name,
        row.candidate.status.value,
        f"{row.weight_bytes / GIB:.1f}",
        f"{row.kv_budget_bytes / GIB:.1f}",
        _sequences(row, KvLayout.VLLM_TPU),
        _sequences(row, KvLayout.IDEAL),
        _range(row.alone, lambda point: f"{point.tpot_s * 1000:.1f}"),
        _range(row.alone, lambda point: f"{point.ttft_s * 1000:.0f}"),
        _range(load, lambda point: f"{point.requests_per_s:.1f}"),
        _range(load, lambda point: f"{point.output_tok_per_s:,.0f}"),
        *([_cost(load, question)] if question.usd_per_chip_hour is not None else []),
        " ".join(map(str, sorted(numbers[note.text, note.source] for note in row.candidate.notes))),
    ]


def _sequences(row: Row, kept: KvLayout) -> str:
    return "/".join(str(row.sequences[context][kept]) for context in CONTEXTS)


def _range(range_: Range, text: Callable[[Point], str]) -> str:
    low, high = (text(end) if end else "none" for end in (range_.slow, range_.fast))
    return low if low == high else f"{low}-{high}"


def _cost(load: Range, question: Question) -> str:
    def text(point: Point) -> str:
        return f"{usd_per_million_output_tokens(point, question):.2f}"

    return _range(load, text)


def _compiled(name: str, case: Case, result: Result) -> list[str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in (result.collectives or {}).items() if count)
    return [
        name,
        f"{case.sequences}",
        f"{case.predicted.total / GIB:.2f}",
        f"{result.total_bytes / GIB:.2f}",
        f"{difference(case, result):+.1%}",
        "yes" if result.fits else "no",
        counts,
        f"{result.compile_seconds:.0f}",
    ]
