"""The audit under a flood: whoever has no key cannot make the lines of keys go away."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apps.guard import audit
from apps.guard.audit import AuditLog, keyless_path
from apps.guard.fair import FairQueue
from apps.guard.housekeeping import Housekeeping
from apps.guard.key_usage import KeyUsage
from apps.guard.response_tracker import ResponseTracker
from apps.guard.settings import GuardArgs
from tests.guard.served import Keys, wait_for

FLOOD = 100_000


async def _nothing(_: Any) -> None:
    pass


def _ended(status: int, key: str | None) -> ResponseTracker:
    tracker = ResponseTracker.of({"type": "http", "headers": []}, _nothing)
    tracker.usage = KeyUsage(key) if key else None
    tracker.status, tracker.ended = status, True
    return tracker


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of the file and the older ones, the oldest first."""
    files = sorted(path.parent.glob(f"{path.name}*"), reverse=True)
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _last_is(path: Path, number: int) -> bool:
    return [line["number"] for line in _lines(path)][-1:] == [number]


def test_requests_without_a_key_displace_no_keys_line(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES", 64 * 1024)  # the flood would fill it, and the older ones, many times
    path = tmp_path / "audit.jsonl"
    args = GuardArgs.model_validate({"keys_files": [str(keys.path)], "audit_file": str(path)})

    async def main() -> None:
        housekeeping = Housekeeping(args)
        housekeeping.watch(FairQueue(None, 1, 1))
        housekeeping.note(_ended(200, "alice"))
        for number in range(FLOOD):
            housekeeping.note(_ended(401, None))
            if number % 1000 == 0:
                await asyncio.sleep(0)
        housekeeping.note(_ended(200, "bob"))
        housekeeping.close()

    asyncio.run(main())
    assert [line["key"] for line in _lines(path)] == ["alice", "bob"]
    keyless = _lines(keyless_path(path))
    written = [line for line in keyless if "status" in line]
    assert {line["key"] for line in written} == {None}
    assert len(written) + sum(line.get("left_out", 0) for line in keyless) == FLOOD
    assert len(written) < FLOOD / 10


def test_the_file_of_requests_without_a_key_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_KEYLESS_FILE_BYTES", 4096)
    monkeypatch.setattr(audit, "_KEYLESS_PER_SECOND", FLOOD)
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(20):
        log.write_keyless({"number": number, "text": "x" * 1000})
        wait_for(partial(_last_is, keyless_path(path), number), 5, "a write")
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.glob("no_key_*")]
    assert len(sizes) == 2
    assert max(sizes) <= 4096
