"""Read parts of a hub's files: by range requests, or from one stream of a file where a server on the way ignores ranges."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from apps.common.errors import BundleError, OperationError, UserError
from apps.weights.retry import STALL_S, StalledError, TransientError, seconds_of, with_retries

_OTHERS_S = 1.0  # without a part before it for so long, a part of a stream is the next one that anybody wants


class HubReader:
    """Files of a repository at one commit. Safe to call from several threads."""

    def __init__(self, repository: str, revision: str) -> None:
        self._repository = repository
        self._revision = revision
        self._streams: dict[str, _Stream] = {}

    def read(self, name: str, start: int, length: int) -> bytes:
        """A part of a file. Raises `OperationError` if the hub refuses it, or does not send it in several tries."""
        what = f"{name} bytes {start:,} to {start + length - 1:,}"
        return with_retries(what, lambda: self._read(name, start, length))

    def _read(self, name: str, start: int, length: int) -> bytes:
        if stream := self._streams.get(name):
            return stream.read(start, length)
        with ExitStack() as opened:
            response = self._open(opened, name, f"bytes={start}-{start + length - 1}")
            headers = response.headers
            is_part = response.status_code == 206 and headers.get("content-range", "").startswith(f"bytes {start}-")
            is_whole = response.status_code == 200 and start == 0 and headers.get("content-length") == str(length)
            if is_part or is_whole:
                chunks = _chunks(response)
                data, rest = _take(chunks, length)
                if rest or next(chunks, b""):
                    raise TransientError("the hub sent more than was asked for")
                return data
        return self._streams.setdefault(name, _Stream(lambda stack: _chunks(self._open(stack, name, None)))).read(start, length)

    def _open(self, opened: ExitStack, name: str, part: str | None) -> Any:
        """The response to a request, whose body is left to be read."""
        from huggingface_hub import hf_hub_url, utils

        url = hf_hub_url(self._repository, name, revision=self._revision)
        headers = {**utils.build_hf_headers(), "accept-encoding": "identity", **({"range": part} if part else {})}
        try:
            asked = utils.get_session().stream("GET", url, headers=headers, timeout=STALL_S, follow_redirects=True)
            response = opened.enter_context(asked)
        except Exception as error:
            raise _passing(error) from error
        if response.status_code == 429 or response.status_code >= 500:
            after_s = seconds_of(response.headers.get("retry-after"))
            raise TransientError(f"the hub answers HTTP {response.status_code}", after_s)
        if response.history and response.status_code in (401, 403, 404, 410):  # a new request gets a new link
            raise TransientError(f"the link that the hub gave for the download has expired (HTTP {response.status_code})")
        try:
            if response.is_error:
                response.read()
            utils.hf_raise_for_status(response)
        except Exception as error:
            raise explain(error, self._repository, self._revision) from error
        return response


class _Stream:
    """One file from its front, to threads that each want another part: they take turns in the order of the parts."""

    def __init__(self, open_chunks: Any) -> None:
        self._open_chunks = open_chunks
        self._turn = threading.Condition()
        self._wanted: dict[int, int] = defaultdict(int)
        self._opened = ExitStack()
        self._chunks: Iterator[bytes] | None = None
        self._position = 0
        self._rest = b""

    def read(self, start: int, length: int) -> bytes:
        with self._turn:
            self._wanted[start] += 1
            try:
                self._wait_for_turn(start)
                return self._take(start, length)
            except BaseException:
                self._close()
                raise
            finally:
                self._wanted[start] -= 1
                self._turn.notify_all()

    def _wait_for_turn(self, start: int) -> None:
        """Wait while parts before this one are read, or about to be; those that an earlier run has copied nobody reads."""
        while (position := self._position) < start:
            passed = not self._turn.wait(_OTHERS_S) and position == self._position
            if passed and start == min(part for part, count in self._wanted.items() if count):
                return

    def _take(self, start: int, length: int) -> bytes:
        if self._chunks is None or self._position > start:
            self._close()
            self._chunks = self._open_chunks(self._opened)
        while self._position < start:
            self._next(self._chunks, min(start - self._position, length))
        return self._next(self._chunks, length)

    def _next(self, chunks: Iterator[bytes], length: int) -> bytes:
        data, self._rest = _take(chunks, length, self._rest)
        self._position += length
        return data

    def _close(self) -> None:
        self._opened.close()
        self._chunks, self._position, self._rest = None, 0, b""


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except Exception as error:
        raise _passing(error) from error


def _take(chunks: Iterator[bytes], length: int, before: bytes = b"") -> tuple[bytes, bytes]:
    """The first `length` bytes of `before` and the chunks, and the rest of the last chunk that was read."""
    data = bytearray(before)
    while len(data) < length:
        chunk = next(chunks, b"")
        if not chunk:
            raise TransientError(f"the hub's answer ended {length - len(data):,} bytes early")
        data += chunk
    return bytes(data[:length]), bytes(data[length:])


def _passing(error: Exception) -> TransientError:
    if "Timeout" in type(error).__name__:
        return StalledError(f"the hub has sent no byte for {STALL_S:g} s")
    return TransientError(f"the hub gave no answer ({type(error).__name__}: {error})")


def explain(error: Exception, repository: str, revision: str | None) -> BundleError:
    """The error of this project for a refusal of the hub, with what to do about it."""
    from huggingface_hub import errors

    where = f"{repository}{f' at {revision}' if revision else ''}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    token = "a token in HF_TOKEN (an environment variable, never an option)"  # noqa: S105 - a sentence
    match error:
        case errors.GatedRepoError():
            return OperationError(f"{where} is gated: accept its licence on the hub, and give {token} of that account")
        case errors.RevisionNotFoundError():
            return UserError(f"{repository} has no revision {revision!r}: give a branch, a tag or a commit")
        case errors.EntryNotFoundError():
            return OperationError(f"{where}: a file disappeared while it was read ({error})")
        case errors.HFValidationError():
            return UserError(f"{repository!r} is not a hub id: {error}")
        case errors.RepositoryNotFoundError():
            return UserError(f"the hub has no model {repository!r} that you may see: check the name, or give {token}")
    if status == 401:
        return OperationError(
            f"{where}: the hub does not know this token: give {token} that is valid, or none for an open model"
        )
    if status == 403:
        return OperationError(f"{where}: this token may not read it: give {token} with read access")
    if status == 429:
        return OperationError(f"{where}: the hub refuses more requests for now (429); what is staged stays, try again later")
    if status and status >= 500:
        return OperationError(f"{where}: the hub fails ({status}); what is staged stays, try again later")
    return OperationError(f"{where}: the hub gave no answer ({type(error).__name__}: {error})")
