"""A plan as plain data, for `scripts/plan.py --json`. Bytes, seconds and tokens; docs/layouts.md explains the keys."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from apps.slice.memory import KvLayout, checkpoint_bytes
from benchmarks.planner.agreement import difference
from benchmarks.planner.case import Case, Result
from benchmarks.planner.plan import Question, Row, usd_per_million_output_tokens
from benchmarks.planner.predict import Point
from benchmarks.planner.recommend import Advice

Plain = dict[str, Any]


def to_plain(rows: Sequence[Row], question: Question, advice: Advice, compiled: Mapping[str, tuple[Case, Result]]) -> Plain:
    """One object with the question, every layout, the advice and what the compiler said (null where it was not asked)."""
    return {
        "question": _question(question),
        "layouts": [_row(row, question, compiled.get(row.candidate.name)) for row in rows],
        "recommended": advice.choice.candidate.name if advice.choice else None,
        "runner_up": advice.runner_up.candidate.name if advice.runner_up else None,
        "why": advice.why,
        "risk": advice.risk,
        "instead": list(advice.instead),
    }


def _question(question: Question) -> Plain:
    limits = {"ttft_s": question.slo.ttft_s, "tpot_s": question.slo.tpot_s}
    return {
        "model": question.model,
        "accelerator": question.on.generation.name,
        "topology": question.on.topology,
        "chips": question.on.chips,
        "hosts": question.on.hosts,
        "slo": {name: limit if isfinite(limit) else None for name, limit in limits.items()},
        "prompt_tokens": question.work.prompt,
        "output_tokens": question.work.output,
        "max_context_tokens": question.max_context,
        "usd_per_chip_hour": question.usd_per_chip_hour,
        "bucket_bytes": checkpoint_bytes(question.shape),
    }


def _row(row: Row, question: Question, compiled: tuple[Case, Result] | None) -> Plain:
    layout = row.candidate.layout
    return {
        "name": row.candidate.name,
        "tensor_parallel": layout.tensor_parallel,
        "data_parallel": layout.data_parallel,
        "pipeline_parallel": layout.pipeline_parallel,
        "dtype": layout.dtype,
        "kv_dtype": layout.kv_dtype,
        "upstream": row.candidate.status.value,
        "notes": [asdict(note) for note in row.candidate.notes],
        "fits": row.fits,
        "weight_bytes_per_chip": round(row.weight_bytes),
        "kv_budget_bytes_per_chip": round(row.kv_budget_bytes),
        "step_bytes_per_chip": round(row.program_bytes),
        "longest_request_tokens": row.longest_request_tokens,
        "sequences": {str(context): most[KvLayout.VLLM_TPU] for context, most in row.sequences.items()},
        "sequences_with_window": {str(context): most[KvLayout.IDEAL] for context, most in row.sequences.items()},
        "alone": {"slow": _point(row.alone.slow), "fast": _point(row.alone.fast)},
        "within_slo": {
            end: point and point | {"usd_per_million_output_tokens": usd_per_million_output_tokens(found, question)}
            for end, found in (("slow", row.within_slo.slow), ("fast", row.within_slo.fast))
            for point in [_point(found)]
        },
        "compiled": compiled and _compiled(*compiled),
    }


def _point(point: Point | None) -> Plain | None:
    return asdict(point) if point else None


def _compiled(case: Case, result: Result) -> Plain:
    predicted = {"sequences": case.sequences, "context": case.context, "predicted_bytes": round(case.predicted.total)}
    return predicted | {"difference": difference(case, result)} | asdict(result)
