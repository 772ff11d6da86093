"""`scripts/plan.py`: compare layouts, recommend one, check them with the TPU compiler, write one into a Serve config."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.slice.model_config import shape_of_file
from apps.slice.models import shape_named
from apps.slice.topology import Slice, slice_of
from benchmarks.option_types import number, price, slo, whole
from benchmarks.planner.output import as_json, text
from benchmarks.planner.plan import PlanRequest, Row, Slo, plan
from benchmarks.planner.predict import Workload
from benchmarks.planner.rank import OBJECTIVES, Ranking, rank
from benchmarks.planner.record import compile_missing, known_in

_MAX_CONTEXT = 131_072


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code 0; 2 for bad input, 1 where the compiler or the recommendation fails."""
    options = _parse(argv)
    request = _request(options)
    if options.write:
        from benchmarks.planner.write import slice_in, write  # YAML and the checks: not needed otherwise

    on = slice_in(options.write) if options.write else None
    if options.calibrate:
        from benchmarks.planner.calibrate import calibrated  # the checks: not needed otherwise

        request = replace(request, speeds=calibrated(options.calibrate, request))
    if options.compile:
        request = replace(request, known=compile_missing(plan(request), request, _config_of(options.model)))
    rows = plan(request)
    ranking = rank(rows, request)
    chosen = _chosen(rows, ranking, options.layout, on) if options.write else None
    print(json.dumps(as_json(rows, request, ranking), indent=1) if options.json else text(rows, request, ranking))
    if chosen:
        write(chosen, request, options.write)
        print(f"{options.write}: now has the engine arguments of {chosen.candidate.name}", file=sys.stderr)
    return 0 if ranking.choice else 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/plan.py",
        description="Compare the layouts of a model on a TPU slice, recommend one, and write it into a Serve config. Every "
        "time and rate is a prediction; docs/layouts.md explains what it is based on.",
    )
    add, tokens, share = parser.add_argument, whole(1, 10_000_000), number(0, 1)
    add("--model", default="gemma-4-31b", help="its name, or a path to its config.json (default: %(default)s)")
    add("--accelerator", default="v6e", help="TPU generation (default: %(default)s)")
    add("--topology", default="4x4", help="of the slice whose chips there are (default: %(default)s)")
    add("--objective", choices=OBJECTIVES, default="balanced", help="what is best (default: %(default)s)")
    add(
        "--slo",
        type=slo("ttft", "tpot"),
        default="ttft=1s,tpot=50ms",
        help="longest mean times that are good enough (default: %(default)s)",
    )
    add("--prompt", type=tokens, default=1024, metavar="TOKENS", help="of each request (default: %(default)s)")
    add("--output", type=tokens, default=256, metavar="TOKENS", help="of each request (default: %(default)s)")
    add(
        "--cached",
        type=share,
        metavar="SHARE",
        default=0.0,
        help="of each prompt that the prefix cache has, 0 to 1: a cache_salt for each user lowers it (default: %(default)s)",
    )
    add(
        "--accepted",
        type=share,
        metavar="SHARE",
        nargs="+",
        default=[],
        help="speculative decoding: how often the draft's first, second, ... token is accepted, given those before it",
    )
    what = f"of the longest request (default: {_MAX_CONTEXT}, or what the model takes)"
    add("--max-context", type=tokens, metavar="TOKENS", help=what)
    add("--price", type=price, metavar="USD", help="of a chip for an hour; without it no cost is shown")
    add(
        "--compile", action="store_true", help="memory and collectives from the engine's own programs (minutes for each layout)"
    )
    add("--calibrate", type=Path, metavar="RESULT", help="a result of `rts bench` on chips of this generation with this model")
    add("--json", action="store_true", help="one object with everything; docs/layouts.md explains its keys")
    add("--write", type=Path, metavar="FILE", help="put the layout into this Serve config, or make it")
    add("--layout", metavar="NAME", help="what --write writes, such as DP2xTP8/bf16/bf16 (default: the best for its slice)")
    return parser.parse_args(argv)


def _request(options: argparse.Namespace) -> PlanRequest:
    """The plan that the options ask for.

    Raises:
        UserError: an unknown model, generation or topology, or options that contradict each other.
    """
    file, total = _config_of(options.model), options.prompt + options.output
    shape = shape_of_file(file) if file else shape_named(options.model)
    if options.layout and not options.write:
        raise UserError("--layout selects what --write writes: give --write FILE with it")
    longest = options.max_context or min(_MAX_CONTEXT, shape.max_context)
    if longest > shape.max_context:
        raise UserError(f"--max-context is {longest:,}, but the model takes {shape.max_context:,} tokens at most")
    if total > longest:
        raise UserError(f"--prompt and --output add up to {total:,} tokens, more than --max-context {longest:,}")
    on = slice_of(options.accelerator, options.topology)
    work = Workload(options.prompt, options.output, options.cached, tuple(options.accepted))
    limits = Slo(options.slo.get("ttft", inf) / 1000, options.slo.get("tpot", inf) / 1000)
    return PlanRequest(
        *(options.model, shape, on, limits, work, longest, options.price, options.objective),
        known=known_in(shape),
    )


def _config_of(model: str) -> Path | None:
    """The path of a config.json or its directory; None for a name."""
    path = Path(model)
    is_path = path.exists() or path.suffix == ".json" or model.startswith(("/", "./", "~"))
    return path.expanduser() if is_path else None


def _chosen(rows: Sequence[Row], ranking: Ranking, name: str | None, on: Slice | None) -> Row:
    """The row to write: the one of a name, else the best; for a file that is there, only on its slice."""
    if name is None:
        if not ranking.exact:
            raise UserError(f"there is nothing to write: {ranking.why} --layout NAME writes a layout all the same")
        best = next((row for row in ranking.exact if on in (None, row.on)), None)
        if best is None:
            slices = ", ".join(dict.fromkeys(f"{row.on.generation.name} {row.on.topology}" for row in ranking.exact))
            raise UserError(f"the file is for another slice than the plan, which has {slices}: give its --topology")
        return best
    fitting = {row.candidate.name: row for row in reversed(rows) if row.fits and on in (None, row.on)}
    if name not in fitting:
        raise UserError(f"--layout {name!r} is not a layout that fits: give one of {', '.join(reversed(fitting))}")
    return fitting[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
