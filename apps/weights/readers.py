"""Read ranges of files into memory from several threads at once: over HTTP, from a disk, or through any fsspec file system.

HTTP is the standard library's: it reads from the socket straight into the caller's memory, which no higher client does. A read
fails with a `PassingError` where trying again may help, and with a `ContentError` where the file is not there or is shorter.
"""

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

import numpy as np

from apps.errors import ContentError, OperationError
from apps.weights.crc32c import Buffer
from apps.weights.retry import PassingError

STALL_S = 20.0
"""A range that brings no byte for so long is given up and asked for anew."""


class RangeReader(Protocol):
    """Fills `buffer` with a file's bytes from `start` on. Safe to call from several threads."""

    def read_into(self, name: str, start: int, buffer: Buffer) -> None: ...


class FileReader:
    """Files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read_into(self, name: str, start: int, buffer: Buffer) -> None:
        try:
            with (self._root / name).open("rb", buffering=0) as file:
                file.seek(start)
                _fill(buffer, file.readinto, f"{self._root / name}")
        except FileNotFoundError:
            raise ContentError(f"{self._root / name} is missing, the manifest lists it") from None
        except OSError as error:
            raise PassingError(str(error)) from error


class FsspecReader:
    """Any other file system of fsspec."""

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root

    def read_into(self, name: str, start: int, buffer: Buffer) -> None:
        path = f"{self._root}/{name}"
        try:
            data = self._fs.cat_file(path, start=start, end=start + len(buffer))
        except FileNotFoundError:
            raise ContentError(f"{path} is missing, the manifest lists it") from None
        except OSError as error:
            raise PassingError(str(error)) from error
        if len(data) != len(buffer):
            raise ContentError(f"{path} ends within bytes {start:,} to {start + len(buffer) - 1:,}")
        buffer[:] = np.frombuffer(data, np.uint8)


class HttpReader:
    """Files behind URLs that answer range requests. One connection per thread, kept open."""

    def __init__(self, url_of: Callable[[str], str], headers: Callable[[], dict[str, str]], stall_s: float = STALL_S) -> None:
        self._url_of = url_of
        self._headers = headers
        self._stall_s = stall_s
        self._local = threading.local()

    def read_into(self, name: str, start: int, buffer: Buffer) -> None:
        url = urlsplit(self._url_of(name))
        headers = {**self._headers(), "range": f"bytes={start}-{start + len(buffer) - 1}", "accept-encoding": "identity"}
        try:
            connection = self._connection(url)
            connection.request("GET", f"{url.path}?{url.query}" if url.query else url.path, headers=headers)
            answer = connection.getresponse()
            if answer.status != 206 and not (answer.status == 200 and start == 0 and answer.length == len(buffer)):
                _refused(name, answer)
            _fill(buffer, answer.readinto, name)
            answer.read()  # nothing is left: the connection is free for the next range
        except (OSError, http.client.HTTPException, PassingError) as error:
            self._forget()
            if isinstance(error, PassingError):
                raise
            stalled = isinstance(error, TimeoutError)
            message = f"no bytes for {self._stall_s:g} s" if stalled else f"{type(error).__name__}: {error}"
            raise PassingError(message) from error

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        found: tuple[str, http.client.HTTPConnection] | None = getattr(self._local, "open", None)
        if found and found[0] == url.netloc:
            return found[1]
        if url.scheme == "https":
            context = ssl.create_default_context()
            new: http.client.HTTPConnection = http.client.HTTPSConnection(url.netloc, timeout=self._stall_s, context=context)
        else:
            new = http.client.HTTPConnection(url.netloc, timeout=self._stall_s)
        self._local.open = (url.netloc, new)
        return new

    def _forget(self) -> None:
        if found := getattr(self._local, "open", None):
            with contextlib.suppress(OSError):
                found[1].close()
            self._local.open = None


def _refused(name: str, answer: http.client.HTTPResponse) -> None:
    said = answer.read(500).decode(errors="replace").strip()
    if answer.status in (404, 410, 416):
        raise ContentError(f"{name} is missing or shorter than its manifest says (HTTP {answer.status})")
    if answer.status in (401, 403):
        raise OperationError(f"{name}: no permission to read it (HTTP {answer.status}): {said}")
    after = answer.headers.get("retry-after", "")
    raise PassingError(f"HTTP {answer.status} {answer.reason}", float(after) if after.isdigit() else None)


def _fill(buffer: Buffer, readinto: Callable[[memoryview], int | None], name: str) -> None:
    view: memoryview = buffer.data
    while view:
        if not (count := readinto(view)):
            raise PassingError(f"{name} ended {len(view):,} bytes early")
        view = view[count:]
