"""A lock in the annotations of a ConfigMap: who holds it, and a time after which that of someone who has vanished is void.

Serve takes the whole list of apps at once, so that of two people who each add an app the later one would remove the other's.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from apps.common.errors import OperationError
from kuberay.api import Api, ApiError
from kuberay.objects import Manifest

_HOLDER = "ray-tpu-serve/deploying"
_UNTIL = "ray-tpu-serve/deploying-until"
_HELD = timedelta(minutes=5)  # more than clocks differ, and than an API server is away
_RENEWAL_S = 60.0
_POLL_S = 1.0
_CONFLICT = 409
_WRITES = 4  # attempts at an object that others write at the same moment


@contextmanager
def locked(api: Api, record: Manifest, timeout_s: float) -> Iterator[None]:
    """Hold the lock in a ConfigMap (made from `record` if there is none) inside the block, however long that takes.

    Raises `OperationError` where somebody else holds it for `timeout_s`.
    """
    holder = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    _make(api, record)
    while not _hold(api, record, holder, _HELD):
        if time.monotonic() > deadline:
            raise OperationError(f"somebody else has been deploying to this cluster for {timeout_s:.0f} s: try again later")
        time.sleep(_POLL_S)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(api, record, holder, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(OperationError):  # it is void by itself soon, and what happened in the block counts more
            _hold(api, record, holder, None)


def _renew(api: Api, record: Manifest, holder: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEWAL_S):
        with suppress(OperationError):  # the next time, perhaps
            _hold(api, record, holder, _HELD)


def _make(api: Api, record: Manifest) -> None:
    metadata = record["metadata"]
    if api.get("ConfigMap", metadata["name"], metadata["namespace"]) is None:
        try:
            api.create(record)
        except ApiError as error:
            if error.status != _CONFLICT:  # somebody else was quicker
                raise


def _hold(api: Api, record: Manifest, holder: str, held: timedelta | None) -> bool:
    """Hold the lock for so long from now, or no longer (None); False where somebody else holds it."""
    place = ("ConfigMap", record["metadata"]["name"], record["metadata"]["namespace"])
    for _ in range(_WRITES):
        if (live := api.get(*place)) is None:
            return False
        annotations, now = live["metadata"].get("annotations") or {}, datetime.now(UTC)
        if annotations.get(_HOLDER) != holder and (held is None or annotations.get(_UNTIL, "") > _text(now)):
            return False
        changed = {_HOLDER: holder, _UNTIL: _text(now + held)} if held else {_HOLDER: None, _UNTIL: None}
        try:  # only onto what was just read
            api.patch(*place, {"metadata": {"annotations": changed, "resourceVersion": live["metadata"]["resourceVersion"]}})
            return True
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
    return False


def _text(time: datetime) -> str:
    """The time in ISO 8601; of UTC, a later one is a greater text."""
    return time.isoformat(timespec="seconds")
