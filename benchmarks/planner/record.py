"""What the real engine's compiled programs say of layouts: recorded for Gemma 4 31B on v6e, and compiled by `plan --compile`.

python -m benchmarks.planner.record              prints the record beside the formula, as docs/layouts.md shows it
python -m benchmarks.planner.record --compile    compiles what is not in the user's cache, and stores the record
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.slice.memory import Layout, kv_bytes_per_chip, program_bytes_per_chip
from apps.slice.models import GEMMA_4_31B, ModelShape, model_id_of
from apps.slice.topology import GIB, Slice, slice_of
from benchmarks.planner.candidates import Status, layout_name
from benchmarks.planner.footprint import ALL_REDUCE_ROUNDS, Key, Programs, by_formula, engine_arguments
from benchmarks.planner.output import markdown
from benchmarks.planner.plan import PlanRequest, Row

RECORD = Path(__file__).with_name("compiled.json")
MODEL = "google/gemma-4-31B-it"
_SEQUENCES = 128  # `max_num_seqs` of serve_configs/gemma.yaml, and the tokens of the step that is compiled
_IMAGES = {"limit_mm_per_prompt": {"image": 4, "video": 0, "audio": 0}, "disable_chunked_mm_input": True}  # as there
_CUT = 6  # layers: five sliding ones and a global one, of which the model is made
_BF16, _FP8 = "bfloat16", "fp8_e5m2"
LAYOUTS = (  # topology, tensor and data parallelism, type of the cache, longest request, layers that are compiled
    ("4x4", 16, 1, _BF16, 131_072, None),
    ("4x4", 16, 1, _BF16, 32_768, _CUT),
    ("4x4", 16, 1, _BF16, 8192, _CUT),
    ("4x4", 16, 1, _FP8, 131_072, _CUT),
    ("4x4", 8, 2, _BF16, 131_072, None),
    ("4x4", 8, 2, _FP8, 131_072, _CUT),
    ("4x4", 4, 4, _BF16, 32_768, _CUT),
    ("4x4", 4, 4, _FP8, 32_768, _CUT),
    ("2x4", 8, 1, _BF16, 131_072, _CUT),
    ("2x4", 8, 1, _FP8, 131_072, _CUT),
    ("2x4", 4, 2, _BF16, 32_768, _CUT),
    ("2x2", 4, 1, _BF16, 32_768, _CUT),
    ("2x2", 4, 1, _FP8, 32_768, _CUT),
)
"""Those that are recorded."""


def recorded() -> list[Programs]:
    """The record; of those in `LAYOUTS` that have been compiled."""
    return [Programs(**entry) for entry in json.loads(RECORD.read_text())]


def recorded_layouts() -> list[tuple[Programs, Layout, Slice]]:
    """Each entry of the record with its layout."""
    known = {(on.topology, layout_name(layout)): (layout, on) for layout, on, *_ in _layouts()}
    return [(entry, *known[entry.topology, entry.layout]) for entry in recorded()]


def known_in(shape: ModelShape) -> dict[Key, Programs]:
    """What is recorded of a model."""
    return _by_key(recorded()) if model_id_of(shape) == MODEL else {}


def _by_key(programs: Sequence[Programs]) -> dict[Key, Programs]:
    """Programs by their key, the first of each."""
    return {(entry.accelerator, entry.topology, entry.layout): entry for entry in reversed(programs)}


def compile_missing(rows: Sequence[Row], request: PlanRequest, config: Path | None) -> dict[Key, Programs]:
    """What is known once the layouts that hold the longest request are compiled; those that cannot be stay as they are.

    Raises:
        UserError: the model's config.json is not known.
        OperationError: the engine's environment cannot be installed.
    """
    from benchmarks.compile.request import model_config_of

    model = model_id_of(request.shape) or request.model
    model_config = model_config_of(model, config)
    compiled = []
    for row in rows:
        is_asked = row.longest_request_tokens >= request.max_context and row.candidate.status is not Status.BROKEN
        if not is_asked or row.footprint.is_compiled or row.candidate.layout.dtype != _BF16:
            continue
        try:
            compiled.append(_compiled(row.candidate.layout, row.on, request.max_context, model, model_config))
        except UserError as error:
            print(f"{row.on.topology} {row.candidate.name}: {error}", file=sys.stderr)
    return {**known_in(request.shape), **_by_key(compiled)}


def table() -> str:
    """Formula / engine for each layout as Markdown, and below it the versions that compiled."""
    rows = [_row(*entry) for entry in recorded_layouts()]
    versions = ", ".join(f"{name} {version}" for name, version in recorded()[0].versions.items())
    cells = markdown([list(rows[0]), *(list(row.values()) for row in rows)])
    return f"{cells}\n\nEach is formula / engine, compiled with {versions}."


def _row(entry: Programs, whole: Layout, on: Slice) -> dict[str, str]:
    """A row's cells by the heads of their columns."""
    layout = entry.compiled_of(whole)
    formula = by_formula(layout, on.generation)
    return {
        "slice": entry.topology,
        "layout": entry.layout,
        "longest": f"{entry.max_context:,}",
        "layers": str(layout.shape.layers),
        "weights GiB": f"{formula.weight_bytes / GIB:.3f} / {entry.weight_bytes / GIB:.3f}",
        "KV bytes a token": f"{kv_bytes_per_chip(layout, 1):,.0f} / {entry.kv_bytes_per_token:,.0f}",
        "KV tokens": f"{formula.kv_tokens:,} / {entry.kv_tokens:,}",
        "all-reduces": f"{formula.rounds / ALL_REDUCE_ROUNDS:.0f} / {entry.collectives['all-reduce']['count']}",
        "temporaries MiB": f"{program_bytes_per_chip(layout, entry.tokens) / 2**20:.1f} / {entry.temp_bytes / 2**20:.1f}",
    }


def _layouts() -> list[tuple[Layout, Slice, int, int | None]]:
    return [
        (Layout(GEMMA_4_31B, tensor, data, kv_dtype=kv, vision=True), slice_of("v6e", topology), context, layers)
        for topology, tensor, data, kv, context, layers in LAYOUTS
    ]


def _compiled(
    layout: Layout, on: Slice, max_context: int, model: str, model_config: dict[str, Any], layers: int | None = None
) -> Programs:
    """Compile the step that decodes with every sequence running, of the whole model or of one that is cut."""
    from benchmarks.compile.request import Request
    from benchmarks.compile.results import compile_programs

    arguments = {**engine_arguments(layout, max_context, _SEQUENCES), **(_IMAGES if layout.vision else {})}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    name = "backbone with embeds" if layers else "backbone"
    done = compile_programs(Request(arguments, model_config, model, on, layers), [name], [str(_SEQUENCES)], None)
    [step] = done.programs
    if not step["fits"]:
        raise UserError(step["message"])
    engine, groups = done.engine, layout.data_parallel
    return Programs(
        model=model,
        accelerator=on.generation.name,
        topology=on.topology,
        layout=layout_name(layout),
        max_context=max_context,
        weight_bytes=engine["weights_bytes_per_chip"],
        kv_bytes_per_token=engine["kv_bytes_per_token_per_chip"] * groups,
        kv_tokens=engine["kv_tokens"] // groups,
        tokens=step["tokens"] // groups,
        collectives={kind: moved for kind, moved in step["collectives"].items() if moved["count"]},
        temp_bytes=step["temp_bytes"],
        layers=layers,
        versions=engine["versions"],
    )


@reports_errors("stopped; what was compiled is kept, and the same command goes on from there")
def main(argv: Sequence[str]) -> int:
    """Print the table; with --compile, compile first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.record", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile what is not in the user's cache, and store the record")
    if parser.parse_args(argv).compile:
        from benchmarks.compile.request import model_config_of

        config = model_config_of(MODEL, None)
        entries = [asdict(_compiled(layout, on, context, MODEL, config, layers)) for layout, on, context, layers in _layouts()]
        RECORD.write_text("[\n" + ",\n".join(f" {json.dumps(entry)}" for entry in entries) + "\n]\n")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
