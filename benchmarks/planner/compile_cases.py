"""Compile cases ahead of time for a described slice: `python -m benchmarks.planner.compile_cases`, in the compile environment.

Reads a case as JSON from each line of standard input and writes its `Result` as JSON on a line of standard output.
"""

import json
import re
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import jax

from benchmarks.planner.case import Case, Result, case_from_json
from benchmarks.planner.hlo import collectives
from benchmarks.planner.program import build

# "Ran out of memory on HBM, the total memory required for HLO temporaries (46.90G) exceeds available HBM (31.24G)."
# In spite of its words the figure includes the arguments.
_REFUSED = re.compile(r"total memory required for HLO temporaries \(([\d.]+)([MGT])\)")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def compile_case(case: Case) -> Result:
    """The compiler's answer.

    Raises:
        jax.errors.JaxRuntimeError: it refused the program for another reason than memory.
    """
    step, described = build(case)
    start = time.monotonic()
    versions = {name: version(name) for name in ("jax", "libtpu")}
    try:
        compiled = step.lower(*described).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        needed = int(float(refused[1]) * _UNITS[refused[2]])
        return Result(False, needed, None, None, None, time.monotonic() - start, versions)
    return _result(compiled, time.monotonic() - start, versions)


def _result(compiled: Any, seconds: float, versions: dict[str, str]) -> Result:
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    total = arguments + temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Result(True, total, arguments, temporary, collectives(compiled.as_text()), seconds, versions)


def main() -> None:
    """Ends with one line where a program is refused for another reason than memory, or a slice cannot be described."""
    for line in sys.stdin:
        try:
            result = compile_case(case_from_json(line))
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            sys.exit(str(error).splitlines()[0])
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
