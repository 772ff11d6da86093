"""Read ranges of files from several threads at once: over HTTP, or through any fsspec file system.

HTTP is the standard library's: it reads from the socket straight into the caller's memory, which no higher client does. A read
fails with a `TransientError` where a retry may help, and with a `ContentError` where the file is missing or too short.
"""

import base64
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np

from apps.common.errors import ContentError, OperationError
from apps.weights.checksums import Buffer
from apps.weights.retry import STALL_S, StalledError, TransientError, seconds_of


class RangeReader(Protocol):
    """Yields a range of a file in pieces of at most the buffer's size; each is valid until the next.

    Small pieces stay in the processor's cache between the network and the disk. Safe to call from several threads.
    """

    def pieces(self, name: str, start: int, length: int, buffer: Buffer) -> Iterator[Buffer]: ...


class FileReader:
    """Reads files below `root` of a disk, or of any other fsspec file system."""

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root

    def pieces(self, name: str, start: int, length: int, buffer: Buffer) -> Iterator[Buffer]:
        path, end = f"{self._root}/{name}", start + length
        try:
            for at in range(start, end, len(buffer)):
                data = self._fs.cat_file(path, start=at, end=min(at + len(buffer), end))
                if len(data) < min(len(buffer), end - at):
                    raise ContentError(f"{path} ends within bytes {start:,} to {end - 1:,}")
                yield np.frombuffer(data, np.uint8)
        except FileNotFoundError:
            raise ContentError(f"{path} is missing, but the manifest lists it") from None
        except OSError as error:
            raise TransientError(str(error)) from error


class HttpReader:
    """Reads files of one host, at URLs that support range requests. One connection per thread, kept open."""

    def __init__(self, url_of: Callable[[str], str], headers: Callable[[], dict[str, str]], stall_s: float = STALL_S) -> None:
        self._url_of = url_of
        self._headers = headers
        self._stall_s = stall_s
        self._local = threading.local()

    def pieces(self, name: str, start: int, length: int, buffer: Buffer) -> Iterator[Buffer]:
        url = urlsplit(self._url_of(name))
        headers = {**self._headers(), "range": f"bytes={start}-{start + length - 1}", "accept-encoding": "identity"}
        connection = vars(self._local).pop("connection", None) or _connection(url, self._stall_s)
        try:
            connection.request("GET", f"{url.path}?{url.query}" if url.query else url.path, headers=headers)
            response = connection.getresponse()
            if response.status != 206 and not (response.status == 200 and start == 0 and response.length == length):
                _raise_refusal(name, response)
            yield from _pieces(length, buffer, response.readinto, name)
            response.read()  # nothing is left: the connection is free for the next range
            self._local.connection = connection
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                raise StalledError(f"no bytes for {self._stall_s:g} s") from error
            raise TransientError(f"{type(error).__name__}: {error}") from error
        finally:
            if not hasattr(self._local, "connection"):
                connection.close()


def _connection(url: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to a URL's host: over TLS through the proxy that the environment names for it, if any."""
    if url.scheme != "https":
        return http.client.HTTPConnection(url.netloc, timeout=timeout_s)
    context = ssl.create_default_context()
    proxy = urlsplit(getproxies().get("https", ""))
    if not proxy.netloc or proxy_bypass(url.netloc):
        return http.client.HTTPSConnection(url.netloc, timeout=timeout_s, context=context)
    connection = http.client.HTTPSConnection(proxy.hostname or "", proxy.port, timeout=timeout_s, context=context)
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else ""
    headers = {"proxy-authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    connection.set_tunnel(url.hostname or "", url.port or 443, headers)
    return connection


def _raise_refusal(name: str, response: http.client.HTTPResponse) -> None:
    body = response.read(500).decode(errors="replace").strip()
    if response.status in (404, 410, 416):
        raise ContentError(f"{name} is missing or shorter than in its manifest (HTTP {response.status})")
    if response.status in (401, 403):
        raise OperationError(f"{name}: no permission to read it (HTTP {response.status}): {body}")
    raise TransientError(f"HTTP {response.status} {response.reason}", seconds_of(response.headers.get("retry-after")))


def _pieces(length: int, buffer: Buffer, readinto: Callable[[memoryview], int | None], name: str) -> Iterator[Buffer]:
    while length:
        if not (count := readinto(buffer[:length].data)):
            raise TransientError(f"{name} ended {length:,} bytes early")
        yield buffer[:count]
        length -= count
