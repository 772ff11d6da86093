"""A hostile run against the simulated server and a chat in front of it: nothing fails, nothing shows, all stays well."""

from pathlib import Path

import pytest

from tests.chat.visitor import chat
from tests.guard.assault import LIMITS, SHARES, Assault
from tests.guard.served import MODEL, Keys, post, served, wait_for

REQUESTS = 800


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long names
def test_hostile_requests(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    key, other = keys.make("alice", limits=LIMITS), keys.make("somebody-else")
    with served(keys, tmp_path) as server, chat(f"{server.url}/v1", keyless=False) as chat_url:
        assault = Assault(server.url, chat_url, MODEL, key, other, ("somebody-else", other, key), slow_s=4)
        assault.run(assault.draw(REQUESTS), slow=round(SHARES["slow"] * REQUESTS))
        print(f"\n{assault.report()}")
        assert post(server, other, {"model": MODEL, "prompt": "x", "max_tokens": 2}).status_code == 200
        assert server.guard.housekeeping
        assert server.simulation
        live, scheduler = server.guard.housekeeping.live, server.simulation.scheduler
        wait_for(lambda: not live and not scheduler.running and scheduler.cache.held == 0, 5, "nothing to be left")
    assert assault.requests >= REQUESTS
    assert assault.statuses["drawn"][200] > SHARES["drawn"] * REQUESTS / 50  # else it would never get past the guard
    assert assault.quantile(1) < 10  # all of it is one process here: tests/e2e/test_guard.py asks for 2
