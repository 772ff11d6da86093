"""A copy on a host: what is refused, what is asked again, what disks and other processes do to it."""

import errno
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apps.common.errors import ContentError, OperationError, UserError
from apps.weights import local_copy, receipt
from apps.weights.manifest import MANIFEST_NAME, dumps
from apps.weights.prefetch import prefetch
from apps.weights.progress import Progress
from apps.weights.readers import HttpReader
from apps.weights.retry import TransientError, seconds_of, with_retries
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store
from apps.weights.verify import verify_url
from tests.weights.bucket import Bucket
from tests.weights.conftest import model_files, served

PART_BYTES = 16 * 1024
URL = "gs://models/gemma"
LARGE = "model-00001-of-00002.safetensors"


def staged(url: str, source: Path, seed: int = 0, part_bytes: int = PART_BYTES) -> dict[str, bytes]:
    files = served(model_files(seed))
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    stage(open_source(str(source), None), Store(url), Progress(), part_bytes=part_bytes, replace=True)
    return files


@pytest.fixture
def files(bucket: Bucket, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    yield staged(URL, tmp_path / "source")
    assert bucket.faults == []


def contents(host: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (host / name).read_bytes() for name in files}


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_other_places_than_a_bucket(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}{tmp_path}/place"
    files = staged(url, tmp_path / "source")
    prefetch(url, tmp_path / "host", Progress())
    assert contents(tmp_path / "host", files) == files


@pytest.mark.parametrize("faults", [["503", "429"], ["cut"], ["flip"], ["503"] * 4])
def test_a_bucket_that_stumbles_is_asked_again(
    bucket: Bucket, files: dict[str, bytes], tmp_path: Path, faults: list[str]
) -> None:
    bucket.faults = ["", *faults]  # the first request is for the manifest
    progress = Progress()
    prefetch(URL, tmp_path / "host", progress, parallel=1)
    assert contents(tmp_path / "host", files) == files
    assert progress.retries == len(faults)


def test_a_server_that_asks_to_wait_for_an_hour_is_not_waited_for() -> None:
    def attempt() -> None:
        raise TransientError("HTTP 429", seconds_of("3600"))

    with pytest.raises(OperationError, match=r"model\.safetensors: HTTP 429, and asks to wait 3600 s"):
        with_retries("model.safetensors", attempt)


def test_a_bucket_is_read_through_the_users_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, ThreadPoolExecutor(1) as pool:

        def refuse() -> bytes:
            connection, _ = proxy.accept()
            with connection:
                asked = connection.recv(1000)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return asked

        asked = pool.submit(refuse)
        monkeypatch.setenv("https_proxy", f"http://me:pass%20word@127.0.0.1:{proxy.getsockname()[1]}")
        reader = HttpReader(lambda name: f"https://bucket.invalid/{name}", dict)
        with pytest.raises(TransientError, match="407"):
            list(reader.pieces("file", 0, 10, np.empty(10, np.uint8)))
    assert asked.result().startswith(b"CONNECT bucket.invalid:443 ")
    assert b"basic bwu6cgfzcyb3b3jk" in asked.result().lower()


def test_a_stalled_range_is_asked_again_elsewhere(bucket: Bucket, files: dict[str, bytes], tmp_path: Path) -> None:
    bucket.faults = ["", "stall"]
    start = time.monotonic()
    prefetch(URL, tmp_path / "host", Progress(), stall_s=1)
    assert time.monotonic() - start < 10
    assert contents(tmp_path / "host", files) == files


def test_a_range_that_never_comes_fails_by_name(bucket: Bucket, files: dict[str, bytes], tmp_path: Path) -> None:  # noqa: ARG001
    bucket.faults = ["", *["503"] * 5]
    with pytest.raises(OperationError, match=r"assets/tokenizer.json bytes 0 to 5,119: HTTP 503 .*; gave up after 5 tries"):
        prefetch(URL, tmp_path / "host", Progress(), parallel=1)
    with pytest.raises(ContentError):
        receipt.verify(tmp_path / "host")


@pytest.mark.parametrize("name", sorted(name for name, data in served(model_files()).items() if data))
def test_a_flipped_bit_in_any_file_is_refused_by_name(
    bucket: Bucket, files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    bucket.flip_a_bit(f"gemma/{name}", len(files[name]) // 2)
    with pytest.raises(ContentError, match=f"{name} bytes .* does not match the manifest"):
        prefetch(URL, tmp_path / "host", Progress())
    with pytest.raises(ContentError):
        receipt.verify(tmp_path / "host")
    with pytest.raises(ContentError, match=name):
        verify_url(URL, Progress(), deep=True)


def test_a_flipped_bit_on_the_host_is_found_and_mended(files: dict[str, bytes], tmp_path: Path) -> None:
    host = tmp_path / "host"
    prefetch(URL, host, Progress())
    with (host / LARGE).open("r+b") as file:
        file.seek(500_000)
        file.write(b"\0\1\2\3")
    with pytest.raises(ContentError, match=LARGE):
        receipt.verify(host, deep=True)
    outcome = prefetch(URL, host, Progress())
    assert outcome.read_bytes == PART_BYTES
    assert contents(host, files) == files


def test_a_short_or_missing_object_is_refused_by_name(bucket: Bucket, files: dict[str, bytes], tmp_path: Path) -> None:
    path = bucket.storage._object_path("models", f"gemma/{LARGE}")
    bucket.storage._store.write_bytes(path, files[LARGE][:-1000])
    with pytest.raises((ContentError, OperationError), match=LARGE):
        prefetch(URL, tmp_path / "host", Progress())
    bucket.storage.delete_file("models", f"gemma/{LARGE}")
    with pytest.raises(ContentError, match=f"{LARGE} is missing"):
        prefetch(URL, tmp_path / "host", Progress())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "files": []}'])
def test_a_manifest_of_garbage_is_refused(bucket: Bucket, tmp_path: Path, text: str) -> None:
    Store(URL).write(MANIFEST_NAME, text.encode())
    with pytest.raises(ContentError, match="is not a manifest of a staged model"):
        prefetch(URL, tmp_path / "host", Progress())
    assert not (tmp_path / "host").exists()
    assert bucket.objects()


def test_a_manifest_cannot_write_elsewhere(files: dict[str, bytes], tmp_path: Path) -> None:  # noqa: ARG001
    manifest = Store(URL).manifest()
    assert manifest
    bad = replace(manifest, files=(replace(manifest.files[0], name="../../escaped"), *manifest.files[1:]))
    Store(URL).write(MANIFEST_NAME, dumps(bad).encode())
    with pytest.raises(ContentError, match="not a plain relative path"):
        prefetch(URL, tmp_path / "host", Progress())


def test_another_revision_replaces_the_old_one(files: dict[str, bytes], tmp_path: Path) -> None:
    host = tmp_path / "host"
    prefetch(URL, host, Progress())
    new = staged(URL, tmp_path / "new", seed=9)
    assert new != files
    prefetch(URL, host, Progress())
    assert contents(host, new) == new
    receipt.verify(host, deep=True)


@pytest.mark.full
def test_a_whole_copy_serves_without_its_bucket(bucket: Bucket, files: dict[str, bytes], tmp_path: Path) -> None:  # noqa: ARG001
    prefetch("gs://models/gemma", tmp_path / "host", Progress())
    bucket.close()
    assert prefetch("gs://models/gemma", tmp_path / "host", Progress()).read_bytes == 0


def test_two_at_once_in_one_directory_read_it_once(bucket: Bucket, files: dict[str, bytes], tmp_path: Path) -> None:
    bucket.downloaded.clear()
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_prefetch, args=(bucket.endpoint, str(tmp_path / "host"))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert contents(tmp_path / "host", files) == files
    read = sum(count for name, count in dict(bucket.downloaded).items() if not name.endswith(MANIFEST_NAME))
    assert read == sum(map(len, files.values()))


def _prefetch(endpoint: str, directory: str) -> None:
    os.environ["STORAGE_EMULATOR_HOST"] = endpoint
    prefetch(URL, Path(directory), Progress())


def test_a_directory_that_another_process_keeps_is_not_waited_for_for_ever(
    files: dict[str, bytes],  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_copy, "_LOCK_S", 0.3)
    wanted = Store(URL).manifest()
    assert wanted
    with (
        local_copy.LocalCopy(wanted, URL, tmp_path / "host"),
        pytest.raises(OperationError, match="another process works on it"),
    ):
        prefetch(URL, tmp_path / "host", Progress())


def test_a_full_disk_is_seen_before(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(local_copy, "_SPARE_BYTES", 2**60)
    with pytest.raises(UserError, match=r"GiB free, but .* are still missing: make room"):
        prefetch(URL, tmp_path / "host", Progress())


def test_a_disk_that_fills_up_keeps_what_it_has(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.pwrite, list[int]()

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if len(written) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(offset)
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OperationError, match="the disk is full; what is there stays"):
            prefetch(URL, tmp_path / "host", Progress(), parallel=1)
    outcome = prefetch(URL, tmp_path / "host", Progress())
    assert outcome.read_bytes < outcome.size_bytes
    assert contents(tmp_path / "host", files) == files


def test_a_directory_that_cannot_be_written_is_named(files: dict[str, bytes]) -> None:  # noqa: ARG001
    with pytest.raises(OperationError, match="/proc/nothing"):
        prefetch(URL, Path("/proc/nothing/here"), Progress())


def test_a_clock_that_jumps_changes_nothing(files: dict[str, bytes], tmp_path: Path) -> None:
    host = tmp_path / "host"
    prefetch(URL, host, Progress())
    future = time.time() + 10 * 365 * 86400
    for name in files:
        os.utime(host / name, (future, future))
    assert prefetch(URL, host, Progress()).read_bytes == 0  # other times: content decides
    receipt.verify(host)
