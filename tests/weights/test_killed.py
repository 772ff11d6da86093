"""kill -9 at seeded moments, again and again: no half or wrong model is taken for a whole one, no whole file is read twice."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.common.errors import ContentError
from apps.weights import receipt
from apps.weights.manifest import loads
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store
from tests.perf.weights.server import Meter
from tests.weights.bucket import Bucket
from tests.weights.conftest import model_files, served
from tests.weights.hub import REPOSITORY, Hub
from tests.weights.victims import PARALLEL, PART_BYTES, URL, prefetch_to, stage_from_hub

KILLS = 50
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.weights.victims", "gcsfs", "huggingface_hub.hf_api"])


def _run(target: Callable[..., None], arguments: tuple[Any, ...], kill_after_s: float | None) -> bool:
    """True where it exited by itself."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join(kill_after_s)
    if process.is_alive() and process.pid:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return False
    assert process.exitcode == 0
    return True


@pytest.mark.full
def test_stage(bucket: Bucket, hub: Hub) -> None:
    wanted = served(hub.files)
    hub.pause_s = 0.02
    draw = random.Random(1)
    start = time.monotonic()
    assert _run(stage_from_hub, (REPOSITORY, hub.endpoint, bucket.endpoint), None)
    whole_s = time.monotonic() - start
    kills, models = 0, 0
    while kills < KILLS:
        bucket.storage.wipe(keep_buckets=True)
        hub.downloaded.clear()
        kills_now = 0
        while not _run(stage_from_hub, (REPOSITORY, hub.endpoint, bucket.endpoint), draw.uniform(0.1, 0.6) * whole_s):
            kills_now += 1
            there = bucket.objects()
            if "gemma/manifest.json" in there:
                manifest = loads(there["gemma/manifest.json"], URL)
                assert {f.name: there[f"gemma/{f.name}"] for f in manifest.files} == wanted
        there = bucket.objects()
        assert {name: there[f"gemma/{name}"] for name in wanted} == wanted
        assert set(there) == {f"gemma/{name}" for name in wanted} | {"gemma/manifest.json"}
        lost = kills_now * PARALLEL * 2 * PART_BYTES  # what was in flight
        assert sum(hub.downloaded.values()) <= sum(map(len, wanted.values())) + lost
        kills, models = kills + kills_now, models + 1
    print(f"\nstage: {kills} kills over {models} models")


@pytest.mark.full
def test_prefetch(bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source"
    wanted = served(model_files(scale=2))
    for name, data in wanted.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    stage(open_source(str(source), None), Store(URL), Progress(), part_bytes=PART_BYTES)
    size = sum(map(len, wanted.values()))
    bucket.meter = Meter(size / 0.5)
    draw = random.Random(2)
    start = time.monotonic()
    assert _run(prefetch_to, (str(tmp_path / "first"), bucket.endpoint), None)
    whole_s = time.monotonic() - start
    kills, models = 0, 0
    while kills < KILLS:
        host = tmp_path / f"host-{models}"
        bucket.downloaded.clear()
        kills_now = 0
        while not _run(prefetch_to, (str(host), bucket.endpoint), draw.uniform(0.1, 0.6) * whole_s):
            kills_now += 1
            try:
                receipt.verify(host)
            except ContentError:
                continue
            receipt.verify(host, deep=True)
        assert {name: (host / name).read_bytes() for name in wanted} == wanted
        receipt.verify(host, deep=True)
        read = sum(count for name, count in dict(bucket.downloaded).items() if not name.endswith("manifest.json"))
        assert read <= size + kills_now * PARALLEL * PART_BYTES
        kills, models = kills + kills_now, models + 1
    print(f"\nprefetch: {kills} kills over {models} copies")
