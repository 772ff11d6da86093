"""`rts batch` against Ray Data with its checkpoints: when the first request comes, memory, and what a kill halfway costs.

`python -m tests.perf.batch 2000`. A server of this machine answers each request after 20 ms.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.batch.files import ROOT, command, many
from tests.batch.server import BatchServer, running

_LIMIT_S = 300
_RAY_DATA = """
import json, sys, urllib.request
import ray, ray.data
from ray.data.checkpoint import CheckpointConfig
source, out, checkpoints, url = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 1024**2)
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.checkpoint_config = CheckpointConfig("custom_id", checkpoints, delete_checkpoint_on_success=False)
def ask(row):
    request = urllib.request.Request(url + row["url"], json.dumps(row["body"]).encode(), {"content-type": "application/json"})
    return {"custom_id": row["custom_id"], "response": urllib.request.urlopen(request).read().decode()}
ray.data.read_json(source, lines=True).map(ask).write_json(out)
"""


def _processes(mark: str) -> Iterator[psutil.Process]:
    """Processes whose environment has the mark: Ray's daemons leave the tree of those who started them."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("BATCH_TRIAL") == mark:
                yield process
        except psutil.Error:
            continue


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def measure(name: str, program: list[str], server: BatchServer, folder: Path, *, kill_at: int | None = None) -> dict[str, Any]:
    """Run a program to its end, or kill all its processes after so many requests."""
    environment = {"BATCH_TRIAL": str(folder), "RAY_TMPDIR": str(folder / "t"), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    began, start, first_s, peak = time.monotonic(), server.asked.total(), None, 0
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(program, cwd=ROOT, env=environment, stdout=log, stderr=log)
        while process.poll() is None and time.monotonic() - began < _LIMIT_S:
            if first_s is None and server.asked.total() > start:
                first_s = time.monotonic() - began
            peak = max(peak, sum(map(_pss_bytes, _processes(str(folder)))))
            if kill_at and server.asked.total() - start >= kill_at:
                break
            time.sleep(0.1)
        seconds = time.monotonic() - began
        for each in _processes(str(folder)):
            each.kill()
        process.wait()
    result = {
        "name": name,
        "exit": process.returncode,
        "seconds": seconds,
        "first_request_s": first_s,
        "peak_mib": peak / 1024**2,
    }
    return result | {"asked": server.asked.total() - start}


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, running() as server:
        folder = Path(directory)
        source, out = many(folder / "in.jsonl", count), folder / "out"
        server.answer_s = 0.02
        ours = command(source, "--to", folder / "answers.jsonl", "--url", server.url)
        theirs = [sys.executable, "-c", _RAY_DATA, str(source), str(out), str(folder / "checkpoints"), server.url]
        for name, program in (("rts batch", ours), ("Ray Data", theirs)):
            print(json.dumps(measure(f"{name}, killed halfway", program, server, folder, kill_at=count // 2)), flush=True)
            kept = sum(path.read_bytes().count(b"\n") for path in [*out.glob("*.json"), *folder.glob("answers.jsonl*")])
            print(json.dumps({"kept": kept} | measure(f"{name}, again", program, server, folder)), flush=True)
            for path in folder.glob("answers.jsonl*"):
                path.unlink()
        errors = [line for line in (folder / "log").read_text().splitlines() if "Error" in line]
        print(errors[-1] if errors else "no errors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="requests in the input")
    main(parser.parse_args().count)
