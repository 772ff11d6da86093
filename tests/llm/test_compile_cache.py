"""What a start compiled is saved, also beside what the bucket had, and a hit is a start that compiled nothing."""

from pathlib import Path

import pytest

from apps.llm.compile_cache import save_missing
from apps.weights.store import Store


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A host's directory."""
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def compile_programs(own: Path, *names: str) -> None:
    for name in names:
        (own / f"jit_{name}-cache").write_bytes(name.encode())


def staged(store: Store) -> set[str]:
    manifest = store.manifest()
    return {file.name for file in manifest.files} if manifest else set()


def test_programs_that_the_bucket_lacks_are_added_to_it(own: Path, tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/bucket")
    compile_programs(own, "a")
    assert save_missing(own, store) == (1, 0)
    compile_programs(own, "b", "c")
    assert save_missing(own, store) == (2, 1)
    assert staged(store) == {"jit_a-cache", "jit_b-cache", "jit_c-cache"}
    assert save_missing(own, store) == (0, 3)


def test_a_host_without_the_buckets_programs_does_not_take_their_place(own: Path, tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/bucket")
    compile_programs(own, "a", "b")
    save_missing(own, store)
    (own / "jit_a-cache").unlink()
    compile_programs(own, "c")
    assert save_missing(own, store) == (1, 1)
    assert staged(store) == {"jit_a-cache", "jit_b-cache"}


def test_nothing_compiled_is_nothing_saved(own: Path, tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/bucket")
    assert save_missing(own, store) == (0, 0)
    assert store.manifest() is None
