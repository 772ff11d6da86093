"""The classic ingress with keys, on a stack of its own."""

from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.guarded import GuardedStack, answers, ask, bearer
from tests.guard.served import Keys, wait_for


@pytest.mark.full
def test_the_classic_ingress_has_the_same_guard(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.make("alice")
    keys.make("root", admin=True)
    keys.make_expired("expired")
    classic = GuardedStack.start(tmp_path, "--classic")
    try:
        for stream in (False, True):
            assert "100 degrees" in ask(classic.client(keys.texts["alice"]), stream=stream)
            with pytest.raises(openai.AuthenticationError):
                ask(classic.client(keys.texts["expired"]), stream=stream)
        assert httpx.get(f"{classic.url}/docs", headers=bearer(keys.texts["root"])).status_code == 404
        classic.keys("revoke", "alice")
        wait_for(lambda: not answers(classic, keys.texts["alice"]), 5, "the key to be refused")
        (audit,) = classic.serve_logs.glob("guard_audit_*.jsonl")
        assert '"key":"alice"' in audit.read_text()
    finally:
        classic.stop()
