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
from apps.slice.models import ModelShape, shape_from_config, shape_named
from apps.slice.topology import slice_of
from benchmarks.option_types import price, slo, whole
from benchmarks.planner.case import Case
from benchmarks.planner.output import Compiled, as_json, compiled_table, sentences, show, table
from benchmarks.planner.plan import CONTEXTS, PlanRequest, Row, Slo, plan
from benchmarks.planner.predict import Workload
from benchmarks.planner.recommend import Advice, recommend


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code 0; 2 for bad input, 1 where the compiler or the recommendation fails."""
    options = _parse(argv)
    request = _request(options)
    rows = plan(request)
    advice = recommend(rows, request)
    chosen = _chosen(rows, advice, options.layout) if options.write else None
    compiled = _compile(rows, request) if options.compile else {}
    if options.json:
        print(json.dumps(as_json(rows, request, advice, compiled), indent=1))
    else:
        tables = [table(rows, request), *([compiled_table(compiled)] if compiled else [])]
        paragraphs = sentences(rows, request, advice, compiled)
        show(tables, paragraphs, plain=options.markdown or not sys.stdout.isatty())
    if chosen:
        from benchmarks.planner.write import write  # YAML and the checks: not needed otherwise

        write(chosen, request, options.write)
        print(f"{options.write}: now has the engine arguments of {chosen.candidate.name}", file=sys.stderr)
    return 0 if advice.choice else 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/plan.py",
        description="Compare the layouts of a model on a TPU slice, recommend one, and write it into a Serve config. Every "
        "time and rate is a prediction; docs/layouts.md explains what it is based on.",
    )
    add, tokens = parser.add_argument, whole(1, 10_000_000)
    add("--model", default="gemma-4-31b", help="its name, or a path to its config.json (default: %(default)s)")
    add("--accelerator", default="v6e", help="TPU generation (default: %(default)s)")
    add("--topology", default="4x4", help="of the slice (default: %(default)s)")
    add(
        "--slo",
        type=slo("ttft", "tpot"),
        default="ttft=1s,tpot=50ms",
        help="longest mean times that are good enough (default: %(default)s)",
    )
    add("--prompt", type=tokens, default=1024, metavar="TOKENS", help="of each request (default: %(default)s)")
    add("--output", type=tokens, default=256, metavar="TOKENS", help="of each request (default: %(default)s)")
    add("--max-context", type=tokens, default=131_072, metavar="TOKENS", help="of the longest request (default: %(default)s)")
    add("--price", type=price, metavar="USD", help="of a chip for an hour; without it no cost is shown")
    add("--compile", action="store_true", help="check every layout with the real TPU compiler (no TPU; minutes the first time)")
    add("--json", action="store_true", help="one object with everything; docs/layouts.md explains its keys")
    add("--markdown", action="store_true", help="plain Markdown also in a terminal")
    add("--write", type=Path, metavar="FILE", help="put the layout's engine arguments into this Serve config")
    add("--layout", metavar="NAME", help="what --write writes, such as DP2xTP8/bf16/bf16 (default: the recommended one)")
    return parser.parse_args(argv)


def _request(options: argparse.Namespace) -> PlanRequest:
    """The plan that the options ask for.

    Raises:
        UserError: an unknown model, generation or topology, or options that contradict each other.
    """
    shape, total = shape_for(options.model), options.prompt + options.output
    if options.layout and not options.write:
        raise UserError("--layout selects what --write writes: give --write FILE with it")
    if options.max_context > shape.max_context:
        raise UserError(f"--max-context is {options.max_context:,}, but the model takes {shape.max_context:,} tokens at most")
    if total > options.max_context:
        raise UserError(f"--prompt and --output add up to {total:,} tokens, more than --max-context {options.max_context:,}")
    on, work = slice_of(options.accelerator, options.topology), Workload(options.prompt, options.output)
    limits = Slo(options.slo.get("ttft", inf) / 1000, options.slo.get("tpot", inf) / 1000)
    return PlanRequest(options.model, shape, on, limits, work, options.max_context, options.price)


def shape_for(model: str) -> ModelShape:
    """The shape of a recorded model, or of the config.json that a path leads to (the file, or the directory that has it).

    A config.json has no size of the vision encoder: such a shape has none.

    Raises:
        UserError: no such model, or a config.json that cannot be read or whose model is not known here.
    """
    path = Path(model)
    if not (path.exists() or path.suffix == ".json" or model.startswith(("/", "./", "~"))):
        return shape_named(model)
    file = path.expanduser() / "config.json" if path.expanduser().is_dir() else path.expanduser()
    try:
        return shape_from_config(json.loads(file.read_text()))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): give a model's config.json, or a name") from None
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{file}: is not the config.json of a language model") from None


def _chosen(rows: Sequence[Row], advice: Advice, name: str | None) -> Row:
    """The row to write: the one of a name, else the recommended one."""
    if name is None:
        if advice.choice is None:
            raise UserError(f"there is nothing to write: {advice.why} --layout NAME writes a layout all the same")
        return advice.choice
    fitting = {row.candidate.name: row for row in rows if row.fits}
    if name not in fitting:
        raise UserError(f"--layout {name!r} is not a layout that fits: give one of {', '.join(fitting)}")
    return fitting[name]


def _compile(rows: Sequence[Row], request: PlanRequest) -> Compiled:
    """Results by layout, of those that hold a sequence of the table's shortest context: decoding as many as each holds."""
    from benchmarks.planner.compiler import compile_all

    on, context, cases = request.on, CONTEXTS[0], {}
    for row in rows:
        layout = replace(row.candidate.layout, vision=False)
        if sequences := row.sequences[context][layout.kv_layout]:
            cases[row.candidate.name] = Case(layout, on.generation.name, on.topology, sequences, context)
    results = compile_all(list(cases.values()), lambda line: print(line, file=sys.stderr, flush=True))
    return dict(zip(cases, zip(cases.values(), results, strict=True), strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
