"""The guard between two marks: how long a request is in it, on its way in and with its first token on the way out.

Middleware as the guard itself is, for vLLM too (`--middleware tests.perf.guard.stopwatch.Stopwatch`). Its own two calls for
each chunk cost more than the guard's, so throughput is measured without it.
"""

import math
import time
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.guard.middleware import GuardMiddleware

TIMES = "/stopwatch"


class Stopwatch:
    """`GET /stopwatch` says and forgets what was measured since the last one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = GuardMiddleware(self._inside)
        self._behind = app
        self._spent_s: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == TIMES:
            spent, self._spent_s = self._spent_s, []
            await JSONResponse({f"p{share}_ms": 1000 * percentile(spent, share) for share in (50, 99)})(scope, receive, send)
            return
        marks = {"in": time.perf_counter()}

        async def outside(message: Message) -> None:
            if "first" in marks and "done" not in marks:
                marks["done"] = time.perf_counter()
                self._spent_s.append(marks["inside"] - marks["in"] + marks["done"] - marks["first"])
            await send(message)

        await self._app({**scope, "marks": marks}, receive, outside)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        marks = scope.get("marks", {})
        marks["inside"] = time.perf_counter()

        async def sent(message: Message) -> None:
            if message.get("body") and "first" not in marks:
                marks["first"] = time.perf_counter()
            await send(message)

        await self._behind(scope, receive, sent)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of a non-empty list."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]
