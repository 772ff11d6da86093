"""One deploy at a time: a lock that is a note in the ConfigMap of what was deployed last.

Serve takes the whole list of apps at once, so that of two people who each add an app the later one would remove the other's.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from apps.common.errors import OperationError
from kuberay.api import Api, ApiError
from kuberay.kinds import Manifest

_HOLDER = "ray-tpu-serve/deploying"
_UNTIL = "ray-tpu-serve/deploying-until"
_LONGEST = timedelta(minutes=10)  # far more than a deploy takes; after it the lock of someone who has vanished is void
_POLL_S = 1.0
_CONFLICT = 409


@contextmanager
def held(api: Api, manifest: Manifest, timeout_s: float) -> Iterator[None]:
    """Hold the lock in a ConfigMap (made from `manifest` if there is none) inside the block.

    Raises:
        OperationError: somebody else holds it for all that time.
    """
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    while not _take(api, manifest, mine):
        if time.monotonic() > deadline:
            raise OperationError(f"somebody else has been deploying to this cluster for {timeout_s:.0f} s: try again later")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        _note(api, manifest, {_HOLDER: None, _UNTIL: None})


def _take(api: Api, manifest: Manifest, mine: str) -> bool:
    metadata = manifest["metadata"]
    found = api.get("ConfigMap", metadata["name"], metadata["namespace"])
    try:
        if found is None:
            found = api.create(manifest)
        noted = found["metadata"].get("annotations") or {}
        if noted.get(_HOLDER) and datetime.fromisoformat(noted[_UNTIL]) > datetime.now(UTC):
            return False
        until = (datetime.now(UTC) + _LONGEST).isoformat(timespec="seconds")
        _note(api, manifest, {_HOLDER: mine, _UNTIL: until}, found["metadata"]["resourceVersion"])
    except ApiError as error:
        if error.status == _CONFLICT:  # somebody else was quicker
            return False
        raise
    return True


def _note(api: Api, manifest: Manifest, notes: dict[str, str | None], version: str | None = None) -> None:
    """Write annotations; with a `version` only onto that one."""
    metadata = manifest["metadata"]
    change: Manifest = {"annotations": notes, **({"resourceVersion": version} if version else {})}
    api.patch("ConfigMap", metadata["name"], metadata["namespace"], {"metadata": change})
