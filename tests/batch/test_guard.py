"""A batch behind the guard: the limits of its key slow it down, and refuse nothing for good."""

import json
import os
from pathlib import Path

from tests.batch.files import answers, chat, run, write
from tests.guard.served import MODEL, Keys, served


def test_a_key_with_few_places_slows_a_batch_and_fails_none(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    key = keys.make("batch", limits={"concurrent_requests": 4})
    lines = (chat(f"id-{number}", f"Say {number}", model=MODEL, max_tokens=4) for number in range(60))
    source, target = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    with served(keys, tmp_path) as server:
        done = run(source, "--to", target, "--url", server.url, "--json", env={**os.environ, "OPENAI_API_KEY": key})
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["ok"], summary["failed"]) == (0, 60, 0), done.stderr
    assert summary["retries"]["HTTP 429"] > 0
    assert list(answers(target)) == [f"id-{number}" for number in range(60)]
    assert summary["completion_tokens"] == sum(
        line["response"]["body"]["usage"]["completion_tokens"] for line in answers(target).values()
    )
