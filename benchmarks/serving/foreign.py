"""Results of other tools, as far as they say what each request did: read into our records, so that the same rules hold.

Read are `vllm bench serve --save-result --save-detailed`, aiperf's profile_export.jsonl, guidellm's JSON and inference-perf's
per_request_lifecycle_metrics.json. What a tool does not write stays unknown, and is called so.
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from apps.common.errors import UserError
from benchmarks.serving.figures import summarized
from benchmarks.serving.records import Record
from benchmarks.serving.result import Load, Result, Run, Setting, Slo

_OLDEST = 1.6e9  # of a time since 1970
_SENT_ONLY = "when requests were meant to be sent (latency counts from when they were)"
_LOAD = "the load: rate or clients"
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")
ToolOutput = tuple[Result, list[list[Record]]]


def read(path: Path, value: Any) -> ToolOutput | None:
    """The result in a file that was parsed as `value` (None: no JSON); None where it is none of these tools'.

    Raises `UserError` if something is missing in it.
    """
    for tool, (is_of, reader) in READERS.items():
        try:
            if is_of(path, value):
                return reader(path, value)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{path}: looks like {tool}'s output, but {type(error).__name__}: {error}") from error
    return None


def _output(
    tool: str,
    records: list[Record],
    *unknown: str,
    model: str = "not known",
    rate: float | None = None,
    clients: int | None = None,
) -> ToolOutput:
    """One run of records whose times are the tool's clock's. `unknown` is what the tool does not write, in words."""
    if not records:
        raise ValueError("there is no request in it")
    start = min(record.intended for record in records)
    for record in records:
        record.intended, record.ended = record.intended - start, record.ended - start
        record.begun = None if record.begun is None else record.begun - start
    load = Load(arrivals="closed" if clients else "open", rate=None if clients else rate, clients=clients, timeout_s=0)
    span = max(record.intended for record in records)
    load_s = span if clients or len(records) < 2 else span * len(records) / (len(records) - 1)
    # some write a monotonic clock's times
    started = datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds") if start > _OLDEST else "not known"
    run = Run(load=load, started_at=started, load_s=max(load_s, 1e-6), elapsed_s=0, sent=0, completed=0)
    setting = Setting(
        url="not known", model=model, profiles=[], seed=None, slo=Slo(), tool=tool, tokenizer="not known",
        warmup_requests=0, versions={}, client_cores=None, not_recorded=list(unknown),
    )  # fmt: skip
    return Result(setting=setting, runs=[summarized(run, records, Slo())]), [records]


def _record(start: float, ended: float, failure: Any = None, **known: Any) -> Record:
    """The record of a request that was sent at `start`, with the tool's own account of what failed, if anything did."""
    detail = failure if isinstance(failure, str) else json.dumps(failure)
    failed = {"error": _kind(failure), "detail": detail[:300]} if failure else {}
    return Record(**{"run": 0, "intended": start, "begun": start, "sent": start, "ended": ended, **failed, **known})


def _micros(seconds: Sequence[float]) -> list[int]:
    return [round(1e6 * each) for each in seconds]


def _first_and_last(ttft_s: float, last_s: float, tokens: int, first_tokens: float = 1.0) -> dict[str, Any]:
    """The events of a request of which only the first and the last token's times are known."""
    if tokens < 2 or last_s <= ttft_s:
        return {"events": _micros([ttft_s])}
    return {"events": _micros([ttft_s, last_s - ttft_s]), "tokens": [first_tokens, tokens - first_tokens], "ends_only": True}


def _vllm(_: Path, value: Any) -> ToolOutput:
    """Lists with an entry for each request."""
    records = []
    columns = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")
    for start, ttft, itls, prompt, output, error in zip(*(value[name] for name in columns), strict=True):
        events = [] if error else _micros([ttft, *itls])
        ended = start + sum(events) / 1e6
        records.append(_record(start, ended, error, events=events, prompt_tokens=prompt, output_tokens=output))
    _share_tokens(records)
    rate, clients = value.get("request_rate"), value.get("max_concurrency")
    rate = None if rate in (None, "inf", inf) else float(rate)
    unknown = (_SENT_ONLY, "the server's count of prompt tokens")
    model = value.get("model_id", "not known")
    return _output("vllm bench serve", records, *unknown, model=model, rate=rate, clients=None if rate else clients)


def _share_tokens(records: Sequence[Record]) -> None:
    """Where events are fewer than tokens and no text is there to tell, each event had as many."""
    for record in records:
        count, events = record.output_tokens or 0, len(record.events)
        if events and count > events:
            record.tokens = [round(count / events, 3)] * events


def _aiperf(path: Path, _: Any) -> ToolOutput:
    """A JSON object on each line: metadata, metrics with units, error."""
    records = []
    for line in path.read_text().splitlines():
        each = json.loads(line)
        about, metrics = each["metadata"], {name: metric["value"] for name, metric in each["metrics"].items()}
        if about.get("benchmark_phase", "profiling") != "profiling":
            continue
        start, end = about["request_start_ns"] / 1e9, about["request_end_ns"] / 1e9
        intended = (about.get("credit_issued_ns") or about["request_start_ns"]) / 1e9
        output = metrics.get("usage_completion_tokens", metrics.get("output_sequence_length"))
        error = each.get("error")
        times: dict[str, Any] = {}
        if not error and "time_to_first_token" in metrics:
            ttft = metrics["time_to_first_token"] / 1000
            chunks = metrics.get("inter_chunk_latency")
            if isinstance(chunks, list):
                times = {"events": _micros([ttft, *(chunk / 1000 for chunk in chunks)])}
            else:
                times = _first_and_last(ttft, metrics["request_latency"] / 1000, int(output or 0))
            times["events"][0] += round(1e6 * (start - intended))
        asked = metrics.get("input_sequence_length")
        tokens = {"prompt_tokens": _whole(metrics.get("usage_prompt_tokens", asked)), "output_tokens": _whole(output)}
        records.append(_record(start, end, error, intended=intended, asked_prompt_tokens=_whole(asked), **tokens, **times))
    _share_tokens([record for record in records if not record.ends_only])
    return _output("aiperf", records, _LOAD)


def _guidellm(_: Path, value: Any) -> ToolOutput:
    """Benchmarks, of which the first is read; requests by how they ended."""
    [benchmark, *others] = value["benchmarks"]
    records = []
    for ending, requests in benchmark["requests"].items():
        for each in requests or ():
            timings, output = each["info"]["timings"], _tokens(each["output_metrics"])
            start = timings["request_start"] or timings["resolve_start"]
            intended = timings.get("targeted_start") or start
            end = timings["request_end"] or timings["resolve_end"]
            first, last = timings.get("first_token_iteration"), timings.get("last_token_iteration")
            times = {}
            if ending == "successful" and first and last:
                per_event = (output or 0) / max(1, timings.get("token_iterations") or 1)
                times = _first_and_last(first - intended, last - intended, output or 0, max(1.0, per_event))
            prompt = each["input_metrics"]
            tokens = {"prompt_tokens": _tokens(prompt), "cached_tokens": prompt.get("cached_tokens"), "output_tokens": output}
            digest = _digest(json.loads(each.get("request_args") or "{}").get("body"))
            failed = None if ending == "successful" else "incomplete" if ending == "incomplete" else "errored"
            records.append(_record(start, end, intended=intended, prompt=digest, error=failed, **tokens, **times))
    profile = benchmark.get("config", {}).get("strategy", {})
    unknown = ("times between tokens",) + (("here: only the first of its benchmarks is read",) if others else ())
    return _output("guidellm", records, *unknown, rate=profile.get("rate"), clients=profile.get("streams"))


def _tokens(metrics: dict[str, Any]) -> int | None:
    return _whole(metrics.get("total_tokens") or metrics.get("text_tokens"))


def _inference_perf(_: Path, value: Any) -> ToolOutput:
    """A list of requests with the times of their chunks."""
    records = []
    for each in value:
        info, error, start = each.get("info") or {}, each.get("error"), each["start_time"]
        answer = info.get("response_metrics") or {}
        times = [] if error else [time - start for time in _times_with_text(answer)]
        usage = answer.get("server_usage") or {}
        gaps = [later - earlier for earlier, later in pairwise(times)]
        asked = ((info.get("request_metrics") or {}).get("text") or {}).get("input_tokens")
        tokens = {
            "asked_prompt_tokens": asked,
            "prompt_tokens": _whole(usage.get("prompt_tokens", asked)),
            "output_tokens": _whole(usage.get("completion_tokens", answer.get("output_tokens"))),
        }
        events, prompt = _micros([*times[:1], *gaps]), _digest(each.get("request"))
        records.append(_record(start, each["end_time"], error, events=events, prompt=prompt, **tokens))
    _share_tokens(records)
    return _output("inference-perf", records, _SENT_ONLY, _LOAD)


def _times_with_text(answer: dict[str, Any]) -> list[float]:
    """When each chunk with a text came: the times of tokens that the tool infers from them are no events."""
    times, chunks = answer.get("chunk_times") or [], answer.get("response_chunks")
    if chunks is None:
        return list(times)
    return [time for time, chunk in zip(times, chunks, strict=True) if _has_text(chunk)]


def _has_text(chunk: str) -> bool:
    try:
        choices = json.loads(chunk).get("choices") or [{}]
    except ValueError:  # the stream's end
        return False
    return bool(choices[0].get("text") or any((choices[0].get("delta") or {}).get(name) for name in _TEXTS))


def _digest(request: Any) -> str:
    """Hash of a request's prompt without its options; empty where it is not there."""
    try:
        body = json.loads(request) if isinstance(request, str) else request
        prompt = body.get("prompt") or body.get("messages")
    except (ValueError, AttributeError):
        return ""
    return blake2b(json.dumps(prompt).encode(), digest_size=8).hexdigest() if prompt else ""


def _whole(value: Any) -> int | None:
    return None if value is None else round(value)


def _kind(error: Any) -> str | None:
    if not error:
        return None
    kind = error.get("error_type") or error.get("type") or error.get("code") if isinstance(error, dict) else None
    return str(kind or "failed")


def _is_aiperf(path: Path, value: Any) -> bool:
    if isinstance(value, dict):  # of one line
        return "metadata" in value and "metrics" in value
    first = path.read_text().partition("\n")[0] if value is None and path.is_file() else ""
    return '"metadata"' in first and '"request_start_ns"' in first


READERS: dict[str, tuple[Callable[[Path, Any], bool], Callable[[Path, Any], ToolOutput]]] = {
    "vllm bench serve": (lambda _, value: isinstance(value, dict) and "ttfts" in value, _vllm),
    "aiperf": (_is_aiperf, _aiperf),
    "guidellm": (lambda _, value: isinstance(value, dict) and "benchmarks" in value, _guidellm),
    "inference-perf": (
        lambda _, value: isinstance(value, list) and bool(value) and {"start_time", "end_time", "info"} <= set(value[0]),
        _inference_perf,
    ),
}
TOOLS = tuple(READERS)
