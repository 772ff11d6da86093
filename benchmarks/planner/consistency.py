"""How well the formula of memory agrees with the TPU compiler, as docs/layouts.md shows it.

python -m benchmarks.planner.consistency              prints the table from the stored results
python -m benchmarks.planner.consistency --compile    compiles all cases anew and stores the results (4 minutes on 2 cores)
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError
from apps.slice.memory import Layout
from apps.slice.models import GEMMA_4_31B
from benchmarks.planner.case import Case, Result, layout_name
from benchmarks.planner.compiler import compile_all
from benchmarks.planner.output import markdown, memory_cells

RECORD = Path(__file__).with_name("compiled.json")
_BF16, _INT8, _FP8 = "bfloat16", "int8", "fp8_e5m2"
_TP16, _TP8, _TP4, _TP2, _PP = (16, 1, 1), (8, 2, 1), (4, 4, 1), (2, 8, 1), (4, 1, 4)
_LAYOUTS: tuple[Any, ...] = (  # tensor, data and pipeline parallelism; types; sequences, context and tokens of a prompt
    (_TP16, (_BF16, _BF16), (40, 8192), (50, 8192), (64, 8192), (2, 131_072), (4, 131_072)),
    (_TP16, (_BF16, _FP8), (44, 8192)),
    (_TP16, (_INT8, _BF16), (11, 32_768)),
    (_TP8, (_BF16, _BF16), (44, 8192), (56, 8192)),
    (_TP8, (_BF16, _FP8), (76, 8192), (18, 32_768)),
    (_TP8, (_INT8, _FP8), (96, 8192)),
    (_TP4, (_BF16, _BF16), (28, 8192), (44, 8192)),
    (_TP4, (_INT8, _BF16), (8, 32_768)),
    (_TP4, (_INT8, _FP8), (84, 8192)),
    (_TP2, (_INT8, _FP8), (56, 8192)),
    (_TP2, (_BF16, _BF16), (16, 8192)),
    (_PP, (_BF16, _BF16), (54, 8192), (64, 8192)),
    (_TP16, (_BF16, _BF16), (30, 8192, 4096)),
    (_TP4, (_BF16, _BF16), (16, 8192, 4096)),
)
CASES = tuple(Case(Layout(GEMMA_4_31B, *cut, *types), "v6e", "4x4", *load) for cut, types, *loads in _LAYOUTS for load in loads)


def stored() -> list[tuple[Case, Result]]:
    """The recorded results of `CASES`.

    Raises:
        OperationError: a case has none.
    """
    record = json.loads(RECORD.read_text())
    if missing := [case.label for case in CASES if case.label not in record]:
        raise OperationError(
            f"{RECORD.name} has no result of {missing[0]}: run python -m benchmarks.planner.consistency --compile"
        )
    return [(case, Result(**record[case.label])) for case in CASES]


def table(compared: Sequence[tuple[Case, Result]]) -> str:
    """Cases, formula and compiler as Markdown, and below it the versions that compiled."""
    head = ["layout", "sequences", "context", "step", "formula GiB", "compiler GiB", "difference", "fits: formula", "compiler"]
    versions = {f"{name} {number}" for _, result in compared for name, number in result.versions.items()}
    rows = [_row(case, result) for case, result in compared]
    return f"{markdown([head, *rows])}\n\nCompiled with {' and '.join(sorted(versions))}."


def _row(case: Case, result: Result) -> list[str]:
    return [
        layout_name(case.layout),
        str(case.sequences),
        f"{case.context:,}",
        f"prompt, {case.prompt_tokens:,}" if case.prompt_tokens else "decode",
        *memory_cells(case, result),
        "yes" if case.is_predicted_to_fit else "no",
        "yes" if result.fits else "no",
    ]


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Print the table; with --compile, compile first."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner.consistency", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--compile", action="store_true", help="compile all cases anew where the cache does not have them")
    options = parser.parse_args(argv)
    if options.compile:
        results = compile_all(CASES, lambda text: print(text, file=sys.stderr, flush=True))
        lines = [
            f" {json.dumps(case.label)}: {json.dumps(asdict(result))}" for case, result in zip(CASES, results, strict=True)
        ]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(table(stored()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
