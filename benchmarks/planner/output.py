"""A plan for people (Markdown) and for programs (JSON).

docs/layouts.md explains the columns and the keys.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from apps.slice.memory import checkpoint_bytes
from apps.slice.topology import GIB
from benchmarks.planner.candidates import Note
from benchmarks.planner.footprint import UTILIZATION
from benchmarks.planner.plan import CONTEXTS, PlanRequest, Range, Row, usd_per_million_output_tokens
from benchmarks.planner.predict import Point
from benchmarks.planner.rank import Ranking, why_not

_LAYOUT_KEYS = ("tensor_parallel", "data_parallel", "pipeline_parallel", "dtype", "kv_dtype")


def text(rows: Sequence[Row], request: PlanRequest, ranking: Ranking) -> str:
    """The table, first of what leaves the answers as they are, then of what changes them; and the paragraphs below it."""
    ranked = (*ranking.exact, *ranking.changed)
    notes = list(dict.fromkeys(note for row in ranked for note in row.candidate.notes))
    reasons = Counter(why for row in rows if (why := why_not(row, request)))
    paragraphs = [
        markdown([_head(request), *(_cells(row, request, notes) for row in ranked)]),
        f"**Recommended: {ranking.choice.name}.** {ranking.why}" if ranking.choice else f"**None.** {ranking.why}",
        ranking.risk,
        f"Not ranked: {', '.join(f'{count} {why}' for why, count in reasons.items())} (--json has them)." if reasons else "",
        f"GiB are per chip, of the stage that has the most; the engine takes {UTILIZATION:.0%} of what the compiler lets a "
        "program use. `sequences`: the most of each length at once, on all slices. `memory`: by the formula, or from the "
        "engine's compiled programs. Times and rates are predictions, slow-fast. A start reads "
        f"{checkpoint_bytes(request.shape) / 1e9:.1f} GB from the bucket for each slice, whatever the layout.",
        "\n".join(f"{number}. {note.text} ({note.source})" for number, note in enumerate(notes, 1)),
    ]
    return "\n\n".join(filter(None, paragraphs))


def _head(request: PlanRequest) -> list[str]:
    contexts = "/".join(f"{context // 1024}K" for context in CONTEXTS)
    head = ["slices", "layout", "upstream", "answers", "weights GiB", "KV GiB", f"sequences {contexts}", "TPOT ms alone"]
    head += ["TTFT ms alone", "requests/s in SLO", "output tok/s"]
    return [*head, *(["$ per M output"] if request.usd_per_chip_hour is not None else []), "memory", "notes"]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of which the first row is the head; columns padded so that it can also be read as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def as_json(rows: Sequence[Row], request: PlanRequest, ranking: Ranking) -> dict[str, Any]:
    """One object with the request, every layout and the ranking."""
    return {
        "question": _request_json(request),
        "layouts": [_row_json(row, request) for row in rows],
        "ranked": [row.name for row in ranking.exact],
        "ranked_if_answers_may_change": [row.name for row in ranking.changed],
        "recommended": ranking.choice.name if ranking.choice else None,
        "near_ties": ranking.ties,
        "why": ranking.why,
        "risk": ranking.risk,
    }


def _cells(row: Row, request: PlanRequest, notes: Sequence[Note]) -> list[str]:
    load = row.within_slo
    has_price = request.usd_per_chip_hour is not None
    costs = [_range(load, lambda point: f"{usd_per_million_output_tokens(point, request):.2f}")] if has_price else []
    return [
        f"{row.replicas} x {row.on.topology}",
        row.candidate.name,
        row.candidate.status.value,
        "the same" if row.candidate.is_exact else "changed",
        f"{row.footprint.weight_bytes / GIB:.1f}",
        f"{row.kv_budget_bytes / GIB:.1f}",
        "/".join(str(row.sequences.get(context, 0)) for context in CONTEXTS),
        _range(row.single_stream, lambda point: f"{point.tpot_s * 1000:.1f}"),
        _range(row.single_stream, lambda point: f"{point.ttft_s * 1000:.0f}"),
        _range(load, lambda point: f"{point.requests_per_s:.1f}"),
        _range(load, lambda point: f"{point.output_tok_per_s:,.0f}"),
        *costs,
        "compiled" if row.footprint.is_compiled else "formula",
        " ".join(str(number) for number, note in enumerate(notes, 1) if note in row.candidate.notes),
    ]


def _range(range_: Range, text: Callable[[Point], str]) -> str:
    low, high = (text(end) if end else "none" for end in (range_.slow, range_.fast))
    return low if low == high else f"{low}-{high}"


def _request_json(request: PlanRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "accelerator": request.on.generation.name,
        "topology": request.on.topology,
        "chips": request.on.chips,
        "hosts": request.on.hosts,
        "objective": request.objective,
        "slo": {name: limit if isfinite(limit) else None for name, limit in asdict(request.slo).items()},
        "prompt_tokens": request.work.prompt,
        "output_tokens": request.work.output,
        "cached_share": request.work.cached,
        "draft_acceptance": list(request.work.accepted),
        "max_context_tokens": request.max_context,
        "usd_per_chip_hour": request.usd_per_chip_hour,
        "bucket_bytes": checkpoint_bytes(request.shape),
    }


def _row_json(row: Row, request: PlanRequest) -> dict[str, Any]:
    layout = row.candidate.layout
    return {
        "name": row.name,
        "topology": row.on.topology,
        "replicas": row.replicas,
        "layout": row.candidate.name,
        **{name: getattr(layout, name) for name in _LAYOUT_KEYS},
        "upstream": row.candidate.status.value,
        "notes": [asdict(note) for note in row.candidate.notes],
        "fits": row.fits,
        "ranked": why_not(row, request) is None,
        "is_compiled": row.footprint.is_compiled,
        "weight_bytes_per_chip": round(row.footprint.weight_bytes),
        "kv_budget_bytes_per_chip": round(row.kv_budget_bytes),
        "step_bytes_per_chip": round(row.footprint.program_bytes),
        "longest_request_tokens": row.longest_request_tokens,
        "sequences": {str(context): count for context, count in row.sequences.items()},
        "single_stream": asdict(row.single_stream),
        "within_slo": {
            end: point and {**point, "usd_per_million_output_tokens": usd_per_million_output_tokens(Point(**point), request)}
            for end, point in asdict(row.within_slo).items()
        },
    }
