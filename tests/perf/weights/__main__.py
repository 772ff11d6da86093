"""How fast weights reach a host, beside gcsfs, pyarrow (what Ray does), huggingface_hub, and writing without a network.

    python -m tests.perf.weights                          a table, in memory (/dev/shm), 1 to 8 GB
    python -m tests.perf.weights --directory DIR --gb 1   on another disk, or less
    python -m tests.perf.weights --connection-mb 100      each connection gives 100 MB/s at most
    python -m tests.perf.weights --slice                  four emulated hosts and a bucket of limited bandwidth
    python -m tests.perf.weights --json                   one object

One server on loopback for all (see server.py). Each contender runs alone in its process, in turns; times end when every
file is synced to its disk. This project's include the comparison of every byte with the manifest; the others compare nothing.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from benchmarks.option_types import whole
from tests.perf.weights.contenders import CONTENDERS
from tests.perf.weights.model import FILE_BYTES, make_source
from tests.perf.weights.server import Limit, serving

ROOT = Path(__file__).resolve().parents[3]
_DEADLINE_S = 900
_ROUNDS = 3


@dataclass(frozen=True)
class Run:
    """One contender and one size: seconds, GB per second, peak memory of its process in MB."""

    contender: str
    gb: int
    seconds: float
    gb_per_s: float
    peak_mb: float


def measure(contender: str, gb: int, source: str, directory: Path) -> Run:
    """Run a contender once.

    Raises:
        OperationError: it failed; its last line is in the message.
    """
    command = [sys.executable, "-m", "tests.perf.weights.contenders", contender, source, str(directory)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stderr
    _watch(process, "ready")
    start = time.monotonic()
    with contextlib.suppress(BrokenPipeError):  # it has ended; its exit code is checked below
        process.stdin.write("\n")
        process.stdin.flush()
    peak = _watch(process, "done")
    seconds = time.monotonic() - start
    if process.wait(_DEADLINE_S) != 0:
        raise OperationError(f"{contender}: {process.stderr.read().strip().splitlines()[-1:]}")
    size = sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
    if size != gb * FILE_BYTES:
        raise OperationError(f"{contender} brought {size} bytes instead of {gb * FILE_BYTES}")
    shutil.rmtree(directory)
    return Run(contender, gb, seconds, gb * FILE_BYTES / 1e9 / seconds, peak)


def _watch(process: "subprocess.Popen[str]", word: str) -> float:
    """Wait until the contender prints a word, or ends, or is killed at the deadline; the peak of its own memory in MB."""
    reader = threading.Thread(target=_read_until, args=(process.stdout, word), daemon=True)
    reader.start()
    peak, watched, end = 0.0, psutil.Process(process.pid), time.monotonic() + _DEADLINE_S
    while reader.is_alive():
        if time.monotonic() > end:
            process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = watched.memory_info()
            peak = max(peak, (memory.rss - memory.shared) / 1e6)
        reader.join(0.05)
    return peak


def _read_until(output: IO[str], word: str) -> None:
    while (line := output.readline()) and line.strip() != word:
        pass


def one_host(directory: Path, sizes: Sequence[int], limit: Limit) -> list[Run]:
    """Every contender at every size: the median of its rounds."""
    runs = []
    for gb in sizes:
        needed = (gb + 2) * FILE_BYTES
        if shutil.disk_usage(directory).free < needed:
            raise UserError(f"{directory} has no room for {needed / 1e9:.0f} GB: give another --directory, or fewer --gb")
        with tempfile.TemporaryDirectory(dir=directory, prefix="weights-") as scratch:
            source = Path(scratch) / "source"
            make_source(source, gb)
            with serving(source, limit) as address:
                runs += [_median(turns) for turns in _rounds(gb, source, address, Path(scratch) / "target").values()]
    return runs


def _rounds(gb: int, source: Path, address: str, target: Path) -> dict[str, list[Run]]:
    """Three rounds in which all take turns, after one that is not counted: memory never used before is slow the first time."""
    by_name: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    measure("plain writing", gb, str(source), target)
    for _ in range(_ROUNDS):
        for name, runs in by_name.items():
            runs.append(measure(name, gb, str(source) if name == "plain writing" else address, target))
            print(f"  {name}: {gb} GB in {runs[-1].seconds:.1f} s", file=sys.stderr)
    return by_name


def _median(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def ratios(runs: Sequence[Run]) -> dict[str, float]:
    """At the largest size against the best of the others and against plain writing; time per GB there against the smallest."""
    largest, smallest = max(run.gb for run in runs), min(run.gb for run in runs)
    speed = {run.contender: run.gb_per_s for run in runs if run.gb == largest}
    small = next(run.gb_per_s for run in runs if run.gb == smallest and run.contender == "this project")
    others = [speed[name] for name in CONTENDERS if name not in ("this project", "plain writing")]
    return {
        "against_best_other": speed["this project"] / max(others),
        "against_plain_writing": speed["this project"] / speed["plain writing"],
        "time_per_gb_large_to_small": small / speed["this project"],
        "peak_mb": max(run.peak_mb for run in runs if run.contender == "this project"),
    }


def table(runs: Sequence[Run]) -> str:
    """The runs as Markdown."""
    lines = ["| | size | time | GB/s | peak memory |", "|---|---|---|---|---|"]
    lines += [f"| {r.contender} | {r.gb} GB | {r.seconds:.1f} s | {r.gb_per_s:.2f} | {r.peak_mb:.0f} MB |" for r in runs]
    return "\n".join(lines)


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.weights", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where to write (default: %(default)s)")
    parser.add_argument("--gb", type=whole(1, 100), nargs="+", default=[1, 2, 4, 8], help="sizes (default: 1 2 4 8)")
    parser.add_argument(
        "--connection-mb", type=float, metavar="MB/S", help="the most that one connection gives (default: no limit)"
    )
    parser.add_argument("--slice", action="store_true", help="four emulated hosts instead of one")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(argv)
    if not options.directory.is_dir():
        raise UserError(f"{options.directory} is not a directory: give an existing one as --directory")
    text, figures = _slice(options) if options.slice else _one_host(options)
    print(json.dumps(figures) if options.json else text)
    return 0


def _one_host(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    limit = Limit(each_connection=options.connection_mb * 1e6 if options.connection_mb else None)
    runs = one_host(options.directory, options.gb, limit)
    figures = ratios(runs)
    lines = [table(runs), "", *(f"{name}: {value:.2f}" for name, value in figures.items())]
    return "\n".join(lines), {"runs": [asdict(run) for run in runs], **figures}


def _slice(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from tests.perf.weights.on_slice import compare_modes

    seconds = compare_modes(options.directory, options.gb[0])
    ratio = seconds["slice-once"] / seconds["per-host"]
    rows = [f"| {mode} | {value:.1f} s |" for mode, value in seconds.items()]
    text = "\n".join(["| mode | time until all four hosts are whole |", "|---|---|", *rows, "", f"ratio: {ratio:.2f}"])
    return text, {**seconds, "ratio": ratio}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
