"""A thousand hostile requests against the simulated server: it never fails, shows nothing of its inside, stays well."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.guard import hostile
from tests.guard.served import MODEL, Keys, served, wait_for

REQUESTS = 1000
BATCH = 25


def test_hostile_requests(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    key, other = keys.make("alice", limits={"max_tokens": 4}), keys.make("somebody-else")
    statuses = Counter[int]()
    threads = ThreadPoolExecutor(8)
    with threads, served(keys, tmp_path) as server, httpx.Client(base_url=server.url, timeout=20) as http:

        @settings(
            max_examples=REQUESTS // BATCH,
            phases=[Phase.generate],
            derandomize=True,  # the same requests each time: whoever broke nothing sees no failure
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(hostile.requests(MODEL), min_size=BATCH, max_size=BATCH))
        def assault(batch: list[hostile.Hostile]) -> None:
            for answer in threads.map(lambda one: hostile.fire(http, one, key), batch):
                assert "somebody-else" not in answer.text
                statuses[answer.status_code] += 1

        assault()
        assert (
            http.post(
                "/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 2}, headers=server.headers(other)
            ).status_code
            == 200
        )
        assert server.guard.housekeeping
        assert server.simulation
        live, scheduler = server.guard.housekeeping.live, server.simulation.scheduler
        wait_for(lambda: not live and not scheduler.running and scheduler.cache.held == 0, 5, "nothing to be left")
    print(f"\nhostile: {statuses.total()} requests, answers by status: {dict(sorted(statuses.items()))}")
    assert statuses.total() >= REQUESTS
    assert statuses[200] > REQUESTS / 50  # else it would never get past the guard
