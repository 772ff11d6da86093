"""What goes on beside the requests: the keys file is watched, requests that take too long are ended, what was done is reported.

One task per guard checks once a second, so that a request's own path needs no timers.
"""

import asyncio
import logging
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apps.guard.answers import Refusal
from apps.guard.audit import AuditLog, audit_path
from apps.guard.fair import FairQueue
from apps.guard.keyfile import WatchedKeys, utc_now
from apps.guard.keys import next_to_expire
from apps.guard.response_tracker import ResponseTracker
from apps.guard.settings import Bounds, GuardArgs

logger = logging.getLogger("ray.serve")
_POLL_S = 1.0
_POLLS_PER_PUBLISH = 5
_NO_KEY = "none"  # of requests without a right key, in metrics


class Housekeeping:
    """The housekeeping of one guard. Raises `UserError` where the keys cannot be read."""

    def __init__(self, args: GuardArgs) -> None:
        self._args = args
        self.keys = WatchedKeys([Path(path) for path in args.keys_files]) if args.keys_files else None
        self.live: dict[ResponseTracker, asyncio.Task[Any] | None] = {}
        self._audit: AuditLog | None = None
        self._metrics: Any = None
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._task: asyncio.Task[None] | None = None

    def watch(self, queue: FairQueue) -> None:
        """Begin, with the first request: before that no loop runs."""
        if self._task is None:
            self._audit = AuditLog(audit_path(self._args.audit_file)) if self._args.audit else None
            self._metrics = _ray_metrics()
            if self.keys:
                self.keys.refresh()  # of a server that nobody asked for hours
            self._task = asyncio.create_task(self._run(queue))

    def close(self) -> None:
        """Write what is left of the audit."""
        if self._task:
            self._task.cancel()
        if self._audit:
            self._audit.close()

    def note(self, tracker: ResponseTracker) -> None:
        """Record a request that has ended: its line in the audit, its numbers."""
        status = tracker.final_status
        key = tracker.usage.name if tracker.usage else None
        self._requests[key or _NO_KEY, status] += 1
        for kind, count in (("prompt", tracker.prompt_tokens), ("output", tracker.output_tokens or tracker.streamed)):
            if key and count:
                self._tokens[key, kind] += count
        if self._audit:
            write = self._audit.write if key else self._audit.write_keyless
            write(_record(tracker, key, status))

    async def _run(self, queue: FairQueue) -> None:
        polls = 0
        while True:
            await asyncio.sleep(_POLL_S)
            polls += 1
            try:
                if self.keys:
                    await asyncio.to_thread(self.keys.refresh)
                self._end_what_takes_too_long()
                if self._metrics and polls % _POLLS_PER_PUBLISH == 0:
                    self._publish(queue)
            except Exception:  # the next poll may do better, and without this task nothing ends
                logger.exception("guard: its housekeeping failed")

    def _end_what_takes_too_long(self) -> None:
        now = time.monotonic()
        for tracker, task in list(self.live.items()):
            why = _overdue(tracker, now - tracker.began, self._args.bounds)
            if why and task:
                tracker.aborted = Refusal(408, why, "request_timeout", kind="server_error")
                task.cancel()

    def _publish(self, queue: FairQueue) -> None:
        expiry = next_to_expire(self.keys.entries, utc_now()) if self.keys else None
        gauges = {
            "running_sequences": queue.taken,
            "waiting_requests": queue.waiting,
            "lost_audit_lines": self._audit.lost if self._audit else 0,
            "next_key_expiry_seconds": expiry.timestamp() if expiry else 0,
        }
        self._metrics.publish(self._requests, self._tokens, gauges)
        self._requests.clear()
        self._tokens.clear()


def _overdue(tracker: ResponseTracker, seconds: float, bounds: Bounds) -> str | None:
    """Why a request that began so long ago has to end; None if it may go on."""
    if tracker.stalled(_POLL_S) >= bounds.send_s:
        return "The client stopped reading its response."
    if tracker.aborted:
        return None
    if tracker.reads_body and seconds > bounds.body_s:
        return f"The request body did not arrive within {bounds.body_s:g} seconds."
    return f"The request took longer than {bounds.request_s:g} seconds." if seconds > bounds.request_s else None


def _record(tracker: ResponseTracker, key: str | None, status: int) -> dict[str, Any]:
    now = time.monotonic()
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": tracker.id,
        "key": key,
        "route": tracker.route,
        "model": tracker.model if status < 400 else None,  # else it may be any text
        "prompt_tokens": tracker.prompt_tokens,
        "output_tokens": tracker.output_tokens if tracker.output_tokens is not None else tracker.streamed or None,
        "ttft_s": round(tracker.first_at - tracker.began, 4) if tracker.first_at else None,
        "duration_s": round(now - tracker.began, 4),
        "status": status,
    }


def _ray_metrics() -> Any:
    """None outside a Ray cluster, as behind vLLM's own server."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from apps.guard.metrics import GuardMetrics

    return GuardMetrics()
