"""Results of other tools, as far as they say what each request did: read into our records, so that the same rules hold.

Read are `vllm bench serve --save-result --save-detailed`, aiperf's profile_export.jsonl, guidellm's JSON and inference-perf's
per_request_lifecycle_metrics.json. What a tool does not write stays unknown, and is called so.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apps.common.errors import UserError
from benchmarks.serving.records import Record
from benchmarks.serving.result import Load, Result, Run, Setting, Slo
from benchmarks.serving.summary import summarized
from benchmarks.serving.tool_outputs import READERS, ToolOutput

_OLDEST = 1.6e9  # of a time since 1970
TOOLS = tuple(READERS)


def read(path: Path, value: Any) -> tuple[Result, list[list[Record]]] | None:
    """The result in a file that was parsed as `value` (None: no JSON); None where it is none of these tools'.

    Raises:
        UserError: it is one's, but something is missing in it.
    """
    for tool, (is_of, reader) in READERS.items():
        try:
            if is_of(path, value):
                return _result(reader(path, value))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{path}: looks like {tool}'s output, but {type(error).__name__}: {error}") from error
    return None


def _result(taken: ToolOutput) -> tuple[Result, list[list[Record]]]:
    records = taken.records
    if not records:
        raise ValueError("there is no request in it")
    start = min(record.intended for record in records)
    for record in records:
        record.intended, record.ended = record.intended - start, record.ended - start
        record.begun = None if record.begun is None else record.begun - start
    span = max(record.intended for record in records)
    clients = taken.clients
    load = Load(arrivals="closed" if clients else "open", rate=None if clients else taken.rate, clients=clients, timeout_s=0)
    load_s = span if clients or len(records) < 2 else span * len(records) / (len(records) - 1)
    # some write a monotonic clock's times
    started = datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds") if start > _OLDEST else "not known"
    run = Run(load=load, started_at=started, load_s=max(load_s, 1e-6), elapsed_s=0, sent=0, completed=0)
    setting = Setting(
        url=taken.url,
        model=taken.model,
        profiles=[],
        seed=None,
        slo=Slo(),
        tool=taken.tool,
        tokenizer="not known",
        warmup_requests=0,
        versions={},
        client_cores=None,
        not_recorded=list(taken.unknown),
    )
    return Result(setting=setting, runs=[summarized(run, records, Slo())]), [records]
