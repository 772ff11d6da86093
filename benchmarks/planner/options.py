"""The options of `scripts/plan.py`, and the question that they ask."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from apps.common.errors import UserError
from apps.slice.topology import slice_of
from benchmarks.planner.model import shape_for
from benchmarks.planner.plan import Question, Slo
from benchmarks.planner.predict import Workload

_UNITS = {"ms": 1e-3, "s": 1.0}
_SLO = "ttft=1s,tpot=50ms"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; argparse ends the process with exit code 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="scripts/plan.py",
        description="Compare the layouts of a model on a TPU slice, recommend one, and write it into a Serve config. Every "
        "time and rate is a prediction; docs/layouts.md says what it rests on.",
    )
    add = parser.add_argument
    add("--model", default="gemma-4-31b", help="its name, or a path to its config.json (default: %(default)s)")
    add("--accelerator", default="v6e", help="TPU generation (default: %(default)s)")
    add("--topology", default="4x4", help="of the slice (default: %(default)s)")
    add("--slo", type=_slo, default=_SLO, help="longest mean times that are good enough (default: %(default)s)")
    add("--prompt", type=_count, default=1024, metavar="TOKENS", help="of each request (default: %(default)s)")
    add("--output", type=_count, default=256, metavar="TOKENS", help="of each request (default: %(default)s)")
    add("--max-context", type=_count, default=131_072, metavar="TOKENS", help="of the longest request (default: %(default)s)")
    add("--price", type=_price, metavar="USD", help="of a chip for an hour; without it no cost is shown")
    add("--compile", action="store_true", help="check every layout with the real TPU compiler (no TPU; minutes the first time)")
    add("--json", action="store_true", help="one object with everything; docs/layouts.md explains its keys")
    add("--markdown", action="store_true", help="plain Markdown also in a terminal")
    add("--write", type=Path, metavar="FILE", help="put the layout's engine arguments into this Serve config")
    add("--layout", metavar="NAME", help="what --write writes, such as DP2xTP8/bf16/bf16 (default: the recommended one)")
    return parser.parse_args(argv)


def question_from(options: argparse.Namespace) -> Question:
    """The question.

    Raises:
        UserError: an unknown model, generation or topology, or options that contradict each other.
    """
    shape = shape_for(options.model)
    if options.layout and not options.write:
        raise UserError("--layout says what --write writes: give --write FILE with it")
    if options.max_context > shape.max_context:
        raise UserError(f"--max-context is {options.max_context:,}, and the model takes {shape.max_context:,} tokens at most")
    if options.prompt + options.output > options.max_context:
        raise UserError(
            f"--prompt and --output are {options.prompt + options.output:,} tokens together, more than --max-context "
            f"{options.max_context:,}"
        )
    on = slice_of(options.accelerator, options.topology)
    work = Workload(options.prompt, options.output)
    return Question(options.model, shape, on, options.slo, work, options.max_context, options.price)


def _slo(text: str) -> Slo:
    """`ttft=1s,tpot=50ms`, in any order; a missing one is no limit."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        number = value.rstrip("ms")
        unit = value[len(number) :]
        if name not in ("ttft", "tpot") or name in found or unit not in _UNITS or not _is_positive(number):
            raise argparse.ArgumentTypeError(
                f"{part!r} is no limit: give ttft and tpot in s or ms, such as {_SLO} (each once; one alone will do)"
            )
        found[name] = float(number) * _UNITS[unit]
    return Slo(found.get("ttft", math.inf), found.get("tpot", math.inf))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens, 1 or more")
    return int(text)


def _price(text: str) -> float:
    if not _is_positive(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price above 0")
    return float(text)


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
