"""Sends requests with as many open at a time as the server takes, and again after a failure that may pass."""

import asyncio
import contextlib
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import httpx

from apps.batch.lines import BatchRequest, parse_object
from apps.common.errors import OperationError, UserError
from apps.weights.retry import seconds_of

BUSY = {429, 502, 503}
"""Statuses of a server that is full or away: the same request may pass later, and all others wait as well."""
BROKEN = {408, 425, 500, 504}
"""Statuses that may be this request's own fault, and so are tried `TRIES` times."""
TRIES = 5
_MIN_WAIT_S, _MAX_BACKOFF_S = 0.1, 15.0
_FIRST_OPEN = 8.0
_IDLE_S = 2.0  # shorter than any server's own limit (uvicorn: 5 s), so that none closes a connection under a new request
_jitter = random.Random(0)  # noqa: S311 - spreads retries, no secret
Response = dict[str, Any] | None
Error = dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending a request once: a response, or the error that came in its place."""

    response: Response
    error: Error = None
    after_s: float | None = None
    """Wait that the server asked for."""

    @property
    def status(self) -> int | None:
        return self.response["status_code"] if self.response else None

    @property
    def reason(self) -> str:
        return f"HTTP {self.status}" if self.status else (self.error or {})["code"]

    @property
    def is_busy(self) -> bool:
        return self.status in BUSY or self.reason == "no_connection"


def backoff_s(tries: int) -> float:
    """Wait after so many failures in a row, in seconds."""
    return min(_MAX_BACKOFF_S, 0.25 * 2 ** min(tries, 10)) * _jitter.uniform(0.5, 1.0)


class Pace:
    """Limits how many requests are open: more while all are answered, half as many when the server is full, none in a pause."""

    def __init__(self, maximum: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._maximum, self.limit, self._step = maximum, min(_FIRST_OPEN, maximum), 1.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._refusals, self._cut_at, self.resume_at = 0, 0.0, 0.0
        self.open = 0
        self.answered_at = self._loop.time()

    async def enter(self) -> float:
        """Wait for a place; returns when it was had. Each place ends with `leave`."""
        place = self._loop.create_future()
        self._waiting.append(place)
        self._admit()
        await place
        return self._loop.time()

    def leave(self) -> None:
        self.open -= 1
        self._admit()

    def answered(self) -> None:
        """Take more: one for each answer until the server is full for the first time, then one for each round."""
        self._refusals, self.answered_at = 0, self._loop.time()
        self.limit = min(self._maximum, self.limit + (self._step or 1 / self.limit))

    def refused(self, began: float, after_s: float | None) -> float:
        """Take less, once for all requests that were open together; returns how long the refused one waits, in seconds.

        All wait where no other is open: the server takes nothing at all now.
        """
        now = self._loop.time()
        if began >= self._cut_at:
            self.limit, self._step, self._cut_at = max(1.0, self.limit / 2), 0.0, now
            self._refusals += 1
        wait_s = backoff_s(self._refusals) if after_s is None else max(after_s, _MIN_WAIT_S)
        if self.open == 1:
            self.resume_at = max(self.resume_at, now + wait_s)
            self._loop.call_at(self.resume_at, self._admit)
        return wait_s

    def _admit(self) -> None:
        while self._waiting and self.open < int(self.limit) and self._loop.time() >= self.resume_at:
            place = self._waiting.popleft()
            if not place.done():
                self.open += 1
                place.set_result(None)


class Sender:
    """Sends requests to one server. `retries` counts what was tried again, by the reason."""

    def __init__(self, url: str, key: str | None, *, concurrency: int, timeout_s: float, patience_s: float) -> None:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        limits, timeout = httpx.Limits(keepalive_expiry=_IDLE_S), httpx.Timeout(timeout_s, connect=min(10.0, timeout_s))
        # a client for each open request: httpcore looks through all connections of a pool for each (2.7 ms at 64, not 1)
        tls = httpx.create_ssl_context()
        self._clients = [
            httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, limits=limits, verify=tls)
            for _ in range(concurrency)
        ]
        self._url, self._timeout_s, self._patience_s = url, timeout_s, patience_s
        self.pace = Pace(concurrency)
        self.retries: Counter[str] = Counter()

    async def run(self, requests: Iterable[BatchRequest], keep: Callable[[BatchRequest, Response, Error], None]) -> None:
        """Send all, and call `keep` once for each.

        Raises:
            UserError: the server does not take the key.
            OperationError: the server is away, or full, for too long.
        """
        left = iter(requests)

        async def work() -> None:
            for request in left:  # of all workers
                attempt = await self._until_answered(request)
                keep(request, attempt.response, attempt.error)

        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for client in self._clients:
                await stack.enter_async_context(client)
            await self._greet()
            for _ in self._clients:
                group.create_task(work())

    async def _greet(self) -> None:
        try:
            response = await self._clients[-1].get("/v1/models")
        except httpx.HTTPError as error:
            raise OperationError(f"{self._url}: {error or type(error).__name__}: is the server up?") from error
        self._check_key(response.status_code)

    def _check_key(self, status: int | None) -> None:
        if status == httpx.codes.UNAUTHORIZED:
            raise UserError(f"{self._url}: HTTP 401: OPENAI_API_KEY is not set, or is no key of this server")

    async def _until_answered(self, request: BatchRequest) -> Attempt:
        tries, refusals, first_refusal = 0, 0, 0.0
        while True:
            began = await self.pace.enter()
            try:
                attempt = await self._try(request)
                self._check_key(attempt.status)
                if attempt.is_busy:
                    wait_s = self.pace.refused(began, attempt.after_s)
                    self._check_patience(attempt)
                    refusals, first_refusal = refusals + 1, first_refusal or began
                    if refusals >= TRIES and self.pace.answered_at - first_refusal > self._patience_s:
                        return attempt  # others were answered all the time
                elif attempt.status and attempt.status not in BROKEN:
                    self.pace.answered()
                    return attempt
                else:
                    tries, wait_s = tries + 1, backoff_s(tries + 1)
            finally:
                self.pace.leave()
            if tries == TRIES:
                await self._greet()  # a server that is away is not this request's fault
                error = attempt.error and {**attempt.error, "message": f"{attempt.error['message']}; tried {TRIES} times"}
                return replace(attempt, error=error)
            self.retries[attempt.reason] += 1
            await asyncio.sleep(wait_s)

    def _check_patience(self, attempt: Attempt) -> None:
        silent_s, asked_s = asyncio.get_running_loop().time() - self.pace.answered_at, attempt.after_s or 0.0
        if asked_s > self._patience_s or (silent_s > self._patience_s and self.pace.open == 1):
            why = f"asks to wait for {asked_s:.0f} s" if asked_s > self._patience_s else f"no answer for {silent_s:.0f} s"
            detail = (attempt.error or {}).get("message", "")
            raise OperationError(f"{self._url}: {why} ({attempt.reason} {detail}".rstrip() + "); --patience waits longer")

    async def _try(self, request: BatchRequest) -> Attempt:
        client = self._clients.pop()
        try:
            response = await client.post(request.path, content=json.dumps(request.body))  # ASCII: also of half characters
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Attempt(None, {"code": "no_connection", "message": str(error) or type(error).__name__})
        except httpx.TimeoutException as error:
            return Attempt(None, {"code": "timeout", "message": f"{type(error).__name__} after {self._timeout_s:g} s"})
        except httpx.RequestError as error:
            return Attempt(None, {"code": "connection_lost", "message": str(error) or type(error).__name__})
        finally:
            self._clients.append(client)
        try:
            body = parse_object(response.content)
        except ValueError as error:
            if response.is_success:
                return Attempt(None, {"code": "malformed_response", "message": str(error)})
            body = {"error": {"message": response.text[:1000], "code": response.status_code}}
        id = response.headers.get("x-request-id", "")
        return Attempt(
            {"status_code": response.status_code, "request_id": id, "body": body},
            after_s=seconds_of(response.headers.get("retry-after")),
        )
