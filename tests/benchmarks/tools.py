"""Other load generators on a known answer: what each itself reports, how far that is from the truth, and what it costs.

    python -m tests.benchmarks.tools --tokenizer DIRECTORY [--only NAME ...]

Each tool's command must be on PATH, best from an environment of its own (`uv venv`, `uv pip install aiperf`); others are named.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.benchmarks.known import Timing, running
from tests.benchmarks.matrix import Case

_CASE = Case(Timing(ttft=0.2, tpot=0.01, tokens_per_event=8), answer=64, rate=20, seconds=10)
_REQUESTS = int(_CASE.seconds * (_CASE.rate or 0))
_SHOWN = ("ttft_p50_ms", "tpot_p50_ms", "itl_p50_ms", "requests_per_s")
_DEADLINE_S = 600
_POLL_S = 0.2


@dataclass(frozen=True)
class Tool:
    """A command, and its own figures in the files that it writes: medians in ms, requests per second."""

    command: Callable[[str, str, Path], list[str]]
    figures: Callable[[Path], dict[str, float]]


def _ours(url: str, _: str, folder: Path) -> list[str]:
    load = [
        "--rate",
        str(_CASE.rate),
        "--arrivals",
        "constant",
        "--duration",
        str(_CASE.seconds),
        "--out",
        str(folder / "r.json"),
    ]
    lengths = ["--profile", "completions", "--prompt-tokens", "32", "--output-tokens", str(_CASE.answer)]
    return [sys.executable, "-m", "benchmarks.serving", "--url", url, *lengths, *load]


def _vllm(url: str, tokenizer: str, folder: Path) -> list[str]:
    lengths = ["--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(_CASE.answer), "--ignore-eos"]
    load = ["--num-prompts", str(_REQUESTS), "--request-rate", str(_CASE.rate), "--burstiness", "1000000"]
    out = ["--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", "r.json"]
    return ["vllm", "bench", "serve", "--base-url", url, "--model", "known", "--tokenizer", tokenizer, *lengths, *load, *out]


def _aiperf(url: str, tokenizer: str, folder: Path) -> list[str]:
    lengths = [
        "--synthetic-input-tokens-mean",
        "32",
        "--output-tokens-mean",
        str(_CASE.answer),
        "--extra-inputs",
        "ignore_eos:true",
    ]
    load = ["--request-rate", str(_CASE.rate), "--arrival-pattern", "constant", "--request-count", str(_REQUESTS)]
    server = ["--url", url, "--model", "known", "--tokenizer", tokenizer, "--endpoint-type", "completions", "--streaming"]
    return ["aiperf", "profile", *server, *lengths, *load, "--artifact-dir", str(folder), "--ui", "none"]


def _guidellm(url: str, tokenizer: str, folder: Path) -> list[str]:
    return [
        *("guidellm", "run", "--backend", f"kind=openai_http,target={url},model=known,request_format=/v1/completions"),
        *("--tokenizer", f"kind=hf_auto,model={tokenizer}", "--disable-progress"),
        *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={_CASE.answer}"),
        *("--profile", f"kind=constant,rate={_CASE.rate}", "--constraint", f"kind=max_requests,count={_REQUESTS}"),
        *("--output", f"kind=json,path={folder / 'r.json'}"),
    ]


def _inference_perf(url: str, tokenizer: str, folder: Path) -> list[str]:
    def exactly(tokens: int) -> dict[str, int]:
        return {"min": tokens, "max": tokens, "mean": tokens, "std_dev": 0, "total_count": _REQUESTS}

    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {"type": "random", "input_distribution": exactly(32), "output_distribution": exactly(_CASE.answer)},
        "load": {"type": "constant", "stages": [{"rate": _CASE.rate, "duration": int(_CASE.seconds)}], "num_workers": 1},
        "server": {"type": "vllm", "model_name": "known", "base_url": url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": tokenizer},
        "report": {"request_lifecycle": {"summary": True, "per_stage": True, "per_request": True}},
        "storage": {"local_storage": {"path": str(folder)}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    return ["inference-perf", "--config_file", str(folder / "config.yml")]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _our_figures(folder: Path) -> dict[str, float]:
    figures = _json(folder / "r.json")["runs"][0]["figures"]
    return {name: figures[name] for name in _SHOWN}


def _vllm_figures(folder: Path) -> dict[str, float]:
    value = _json(folder / "r.json")
    times = {f"{name}_p50_ms": value[f"median_{name}_ms"] for name in ("ttft", "tpot", "itl")}
    return {**times, "requests_per_s": value["request_throughput"]}


def _aiperf_figures(folder: Path) -> dict[str, float]:
    value = _json(folder / "profile_export_aiperf.json")
    times = {"ttft_p50_ms": value["time_to_first_token"]["p50"], "itl_p50_ms": value["inter_token_latency"]["p50"]}
    return {**times, "requests_per_s": value["request_throughput"]["avg"]}


def _guidellm_figures(folder: Path) -> dict[str, float]:
    metrics = _json(folder / "r.json")["benchmarks"][0]["metrics"]
    names = {"ttft_p50_ms": "time_to_first_token_ms", "itl_p50_ms": "inter_token_latency_ms"}
    times = {ours: metrics[theirs]["successful"]["median"] for ours, theirs in names.items()}
    return {**times, "requests_per_s": metrics["requests_per_second"]["successful"]["mean"]}


def _inference_perf_figures(folder: Path) -> dict[str, float]:
    value = _json(next(folder.rglob("summary_lifecycle_metrics.json")))["successes"]
    latency = value["latency"]
    names = {"ttft_p50_ms": "time_to_first_token", "tpot_p50_ms": "time_per_output_token", "itl_p50_ms": "inter_token_latency"}
    times = {ours: 1000 * latency[theirs]["median"] for ours, theirs in names.items()}
    return {**times, "requests_per_s": value["throughput"]["requests_per_sec"]}


TOOLS = {
    "benchmarks.serving": Tool(_ours, _our_figures),
    "vllm bench serve": Tool(_vllm, _vllm_figures),
    "aiperf": Tool(_aiperf, _aiperf_figures),
    "guidellm": Tool(_guidellm, _guidellm_figures),
    "inference-perf": Tool(_inference_perf, _inference_perf_figures),
}


@dataclass
class Cost:
    """CPU seconds of a command and all its processes, and the highest sum of their resident memory in MB."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0


def run(command: list[str], log: Path) -> Cost:
    """Run a command to its end. Raises `RuntimeError` where it fails."""
    cost, used = Cost(), dict[int, float]()
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        began = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - began > _DEADLINE_S:
                process.kill()
            rss = 0
            for each in _all_processes(process.pid):
                try:
                    times = each.cpu_times()
                    used[each.pid] = times.user + times.system
                    rss += each.memory_info().rss
                except psutil.Error:
                    continue
            cost.rss_mb = max(cost.rss_mb, rss / 1e6)
            time.sleep(_POLL_S)
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}: {log.read_text()[-500:]}")
    cost.cpu_s = sum(used.values())
    return cost


def _all_processes(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tools", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--tokenizer", required=True, help="what the tools count tokens by: a directory or a name in their cache"
    )
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="NAME", help=", ".join(TOOLS))
    parser.add_argument("--keep", type=Path, help="copy what each tool wrote to this folder")
    options = parser.parse_args()
    truth = _CASE.truth()
    print(f"{_CASE.name}, {_CASE.seconds:g} s\n| tool | TTFT | TPOT | ITL | requests/s | CPU s | memory MB |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only:
        with TemporaryDirectory() as folder, running(_CASE.timing) as server:
            command = TOOLS[name].command(server.url, options.tokenizer, Path(folder))
            if not shutil.which(command[0]):
                print(f"| {name} | not on PATH |")
                continue
            try:
                cost = run(command, Path(folder) / "log")
                figures = TOOLS[name].figures(Path(folder))
            except (RuntimeError, OSError, KeyError, TypeError, StopIteration) as error:
                print(f"| {name} | {type(error).__name__}: {error} |")
                continue
            finally:
                if options.keep:
                    shutil.copytree(folder, options.keep / name.split()[0], dirs_exist_ok=True)
            cells = [_cell(figures.get(figure), truth[figure]) for figure in _SHOWN]
            print(f"| {name} | {' | '.join(cells)} | {cost.cpu_s:.1f} | {cost.rss_mb:,.0f} |", flush=True)
    return 0


def _cell(value: float | None, true: float | None) -> str:
    if value is None or not true:
        return "-"
    return f"{value:.2f} ({(value - true) / true:+.1%})"


if __name__ == "__main__":
    sys.exit(main())
