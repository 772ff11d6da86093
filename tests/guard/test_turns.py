"""Turns inside the engine: whose waiting prompt is computed next."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.guard.served import MODEL, Keys, post, served, wait_for

HEAVY = 30


@pytest.mark.parametrize("policy", ["priority", "fcfs"])
def test_a_short_prompt_overtakes_the_long_ones_of_another_key(tmp_path: Path, policy: str) -> None:
    keys = Keys(tmp_path / "keys.json")
    heavy, light = keys.make("heavy"), keys.make("light")
    engine = {"scheduling_policy": policy, "max_num_batched_tokens": 512}
    with served(keys, tmp_path, engine=engine) as server, ThreadPoolExecutor(HEAVY + 1) as threads:
        ended: list[str] = []

        def ask(key: str, prompt: str) -> None:
            assert post(server, key, {"model": MODEL, "prompt": prompt, "max_tokens": 1}).status_code == 200
            ended.append(key)

        asked = [threads.submit(ask, heavy, f"number {number} " + "word " * 7000) for number in range(HEAVY)]
        assert server.simulation
        scheduler = server.simulation.scheduler
        wait_for(lambda: len(scheduler.running) + len(scheduler.waiting) + len(ended) == HEAVY, 10, "the long ones")
        asked.append(threads.submit(ask, light, "Water boils at"))
        for future in asked:
            future.result()
    place = ended.index(light)
    assert place < HEAVY / 2 if policy == "priority" else place > HEAVY / 2, ended
