"""What the real engine's compiled programs say of layouts: recorded for Gemma 4 31B on v6e, and compiled by `plan --compile`.

python -m benchmarks.planner.record              prints the record beside the formula, as docs/layouts.md shows it
python -m benchmarks.planner.record --compile    compiles what is not in the user's cache, and stores the record
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.slice.memory import Layout, kv_bytes_per_chip, program_bytes_per_chip
from apps.slice.models import GEMMA_4_31B, ModelShape, model_id_of
from apps.slice.topology import GIB, Generation, Slice, slice_of
from benchmarks.planner.candidates import Candidate, Status, layout_name
from benchmarks.planner.footprint import ALL_REDUCE_ROUNDS, STEP_TOKENS, UTILIZATION, Footprint, by_formula
from benchmarks.planner.output import markdown
from benchmarks.planner.plan import Known, PlanRequest, Row

if TYPE_CHECKING:
    from benchmarks.compile.request import Request

RECORD = Path(__file__).with_name("compiled.json")
MODEL = "google/gemma-4-31B-it"
_SEQUENCES = 128  # `max_num_seqs` of serve_configs/gemma.yaml, and the tokens of the step that is compiled
_CUT = 6  # layers: five sliding ones and a global one, of which the model is made
_BF16_BYTES = 2
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


@dataclass(frozen=True)
class Programs:
    """A layout's figures from the engine over described chips; bytes are those of one chip."""

    model: str
    accelerator: str
    topology: str
    layout: str
    max_context: int
    weight_bytes: int
    kv_bytes_per_token: float
    """KV cache of a token of one data-parallel group."""
    kv_tokens: int
    """Tokens that the cache of one group holds."""
    tokens: int
    """Tokens of a group in the step whose collectives these are: how many of each kind, and the bytes of their results."""
    collectives: dict[str, dict[str, int]]
    temp_bytes: int
    layers: int | None
    """Layers that the model was cut to, and its step compiled without the embedding; None for the whole."""
    versions: dict[str, str]

    def footprint(self, layout: Layout, generation: Generation) -> Footprint:
        """What the planner uses of it: as compiled, or as many blocks of a cut model as the whole one has."""
        formula, hidden = by_formula(layout, generation), layout.shape.hidden
        count, moved = self.collectives["all-reduce"]["count"], self.collectives["all-reduce"]["bytes"] / self.tokens
        weights, tokens = float(self.weight_bytes), self.kv_tokens
        if self.layers:
            blocks = layout.shape.layers // self.layers
            weights += formula.weight_bytes - by_formula(self.compiled_of(layout), generation).weight_bytes
            tokens = int((UTILIZATION * generation.usable_bytes - weights) / (blocks * self.kv_bytes_per_token))
            count, moved = blocks * count + 1, blocks * moved + hidden * _BF16_BYTES  # and the embedding's
        rounds = (ALL_REDUCE_ROUNDS * count, ALL_REDUCE_ROUNDS * moved)
        return Footprint(weights, tokens, formula.program_bytes, *rounds, is_compiled=True)

    def compiled_of(self, layout: Layout) -> Layout:
        """The layout of the model that was compiled."""
        shape, blocks = layout.shape, layout.shape.layers // (self.layers or layout.shape.layers)
        cut = replace(shape, sliding_layers=shape.sliding_layers // blocks, global_layers=shape.global_layers // blocks)
        return replace(layout, shape=cut)


def recorded() -> list[Programs]:
    """The record; of those in `LAYOUTS` that have been compiled."""
    return [Programs(**entry) for entry in json.loads(RECORD.read_text())]


def recorded_layouts() -> list[tuple[Programs, Layout, Slice]]:
    """Each entry of the record with its layout."""
    known = {(on.topology, layout_name(layout)): (layout, on) for layout, on, *_ in _layouts()}
    return [(entry, *known[entry.topology, entry.layout]) for entry in recorded()]


def known_in(shape: ModelShape, programs: Iterable[Programs] = ()) -> Known:
    """Find a candidate in the record, or among some programs."""
    model = model_id_of(shape) or ""
    every = [*programs, *(recorded() if model == MODEL else ())]

    def known(candidate: Candidate, on: Slice) -> Footprint | None:
        key = (on.generation.name, on.topology, candidate.name)
        first = next((entry for entry in every if (entry.accelerator, entry.topology, entry.layout) == key), None)
        return first and first.footprint(candidate.layout, on.by_device().generation)

    return known


def compile_missing(rows: Sequence[Row], request: PlanRequest, config: Path | None) -> Known:
    """Compile the layouts that hold the longest request and that nothing is known of; those that cannot be stay as they are.

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
        engine = asked(row.candidate.layout, row.on, request.max_context, model, model_config)
        try:
            compiled.append(_compiled(row.candidate.layout, engine, None))
        except UserError as error:
            print(f"{row.on.topology} {row.candidate.name}: {error}", file=sys.stderr)
    return known_in(request.shape, compiled)


def table() -> str:
    """Formula / engine for each layout as Markdown, and below it the versions that compiled."""
    head = [
        "slice",
        "layout",
        "longest",
        "layers",
        "weights GiB",
        "KV bytes a token",
        "KV tokens",
        "all-reduces",
        "temporaries MiB",
    ]
    rows = [_row(*entry) for entry in recorded_layouts()]
    versions = ", ".join(f"{name} {version}" for name, version in recorded()[0].versions.items())
    return f"{markdown([head, *rows])}\n\nEach is formula / engine, compiled with {versions}."


def _row(entry: Programs, whole: Layout, on: Slice) -> list[str]:
    layout = entry.compiled_of(whole)
    formula = by_formula(layout, on.generation)
    return [
        *(entry.topology, entry.layout, f"{entry.max_context:,}", str(layout.shape.layers)),
        f"{formula.weight_bytes / GIB:.3f} / {entry.weight_bytes / GIB:.3f}",
        f"{kv_bytes_per_chip(layout, 1):,.0f} / {entry.kv_bytes_per_token:,.0f}",
        f"{formula.kv_tokens:,} / {entry.kv_tokens:,}",
        f"{formula.rounds / ALL_REDUCE_ROUNDS:.0f} / {entry.collectives['all-reduce']['count']}",
        f"{program_bytes_per_chip(layout, entry.tokens) / 2**20:.1f} / {entry.temp_bytes / 2**20:.1f}",
    ]


def _layouts() -> list[tuple[Layout, Slice, int, int | None]]:
    return [
        (Layout(GEMMA_4_31B, tensor, data, kv_dtype=kv, vision=True), slice_of("v6e", topology), context, layers)
        for topology, tensor, data, kv, context, layers in LAYOUTS
    ]


def asked(layout: Layout, on: Slice, max_context: int, model: str, model_config: dict[str, Any]) -> "Request":
    """The engine of a layout, with the arguments that serve_configs/gemma.yaml has."""
    from benchmarks.compile.request import Request

    images = {"limit_mm_per_prompt": {"image": 4, "video": 0, "audio": 0}, "disable_chunked_mm_input": True}
    engine: dict[str, Any] = {
        "tensor_parallel_size": layout.tensor_parallel,
        "gpu_memory_utilization": UTILIZATION,
        "max_model_len": max_context,
        "max_num_seqs": _SEQUENCES,
        "max_num_batched_tokens": STEP_TOKENS,
        **({"data_parallel_size": layout.data_parallel} if layout.data_parallel > 1 else {}),
        **({"kv_cache_dtype": layout.kv_dtype} if layout.kv_dtype != _BF16 else {}),
        **(images if layout.vision else {}),
    }
    return Request(engine, model_config, model, on)


def _compiled(layout: Layout, request: "Request", layers: int | None) -> Programs:
    """Compile the step that decodes with every sequence running, of the whole model or of one that is cut."""
    from benchmarks.compile.results import compile_programs

    name = "backbone with embeds" if layers else "backbone"
    done = compile_programs(replace(request, layers=layers), [name], [str(_SEQUENCES)], None)
    [step] = done.programs
    if not step["fits"]:
        raise UserError(step["message"])
    engine, groups = done.engine, request.engine_kwargs.get("data_parallel_size", 1)
    return Programs(
        model=request.model_id,
        accelerator=request.on.generation.name,
        topology=request.on.topology,
        layout=layout_name(layout),
        max_context=request.engine_kwargs["max_model_len"],
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
        entries = [
            asdict(_compiled(layout, asked(layout, on, context, MODEL, config), layers))
            for layout, on, context, layers in _layouts()
        ]
        RECORD.write_text("[\n" + ",\n".join(f" {json.dumps(entry)}" for entry in entries) + "\n]\n")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
