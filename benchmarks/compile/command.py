"""`rts compile`: which programs a Serve config's engine would compile at a start, and whether each fits the chips."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.option_types import whole_number


@reports_errors("stopped; what was compiled is kept, and the same command goes on from there")
def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 every program that was compiled fits, 1 one does not, 2 bad input or a config that the engine refuses."""
    options = _parser().parse_args(argv)
    from benchmarks.compile.request import request_for  # after the options: --help needs none of it
    from benchmarks.compile.results import compile_programs
    from benchmarks.compile.table import text

    request = request_for(options.config, options.model, options.topology, options.layers)
    compiled = compile_programs(request, options.programs, options.tokens, options.jobs)
    print(json.dumps(compiled.plain(), indent=1) if options.json else text(compiled))
    return 0 if compiled.fits else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rts compile",
        description="Compile what vLLM TPU would compile at a start, with the real engine and Google's TPU compiler, over "
        "chips that are only described: memory of each program, collectives, KV cache. Needs Linux on x86 and Python 3.12; "
        "no TPU.",
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", type=Path, help="a Serve config, such as serve_configs/gemma.yaml")
    add("--model", metavar="DIR", type=Path, help="directory with the model's config.json (default: the config's model)")
    add("--topology", metavar="AxB", help="of the slice (default: the config's)")
    add("--layers", type=whole_number, metavar="N", help="cut the model to N layers, for a quick trial")
    add("--programs", nargs="+", metavar="NAME", default=[], help="only these programs; * stands for anything")
    add(
        "--tokens",
        nargs="+",
        type=_tokens,
        metavar="N",
        default=[],
        help="token buckets, or `all` (default: max_num_seqs and the largest)",
    )
    add("--jobs", type=whole_number, metavar="N", help="programs compiled at once (default: one per core)")
    add("--json", action="store_true", help="one object with every program; docs/tpu_engine.md explains its keys")
    return parser


def _tokens(text: str) -> str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor `all`")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
