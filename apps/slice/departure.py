"""When one host of a slice is told to go, the whole slice goes: Serve then moves the replica while running answers may end."""

import asyncio
import logging
import math

from apps.slice.claim import HeldSlice
from apps.slice.drain import drain, draining

logger = logging.getLogger("ray.serve")
_LAST_WORDS_S = 2.0  # before the end, for an error to reach the clients whose answers still run


class Departure:
    """Follows the draining nodes of one held slice. `broken` is set shortly before they are gone."""

    def __init__(self, held: HeldSlice, broken: asyncio.Event) -> None:
        self._held = held
        self._broken = broken
        self._told = False
        self._end: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Drain the other hosts as soon as one is found to be draining."""
        if self._told:
            return
        try:
            left_s = await asyncio.to_thread(draining)
        except Exception as error:  # a private call: without an answer a lost host is noticed all the same, only later
            logger.warning(f"slice {self._held.name}: Ray does not say which hosts are told to go: {error}")
            return
        leaving = [host for host in self._held.hosts if host.node_id in left_s]
        if not leaving:
            return
        soonest_s = min(left_s[host.node_id] for host in leaving)
        numbers = ", ".join(str(host.worker_id) for host in leaving)
        when = f"in {soonest_s:.0f} s" if math.isfinite(soonest_s) else "at a time that Ray does not say"
        why = f"slice {self._held.name}: host {numbers} goes {when}, and the slice works only as a whole"
        logger.warning(why)
        self._told = True
        if math.isfinite(soonest_s):
            self._end = asyncio.create_task(self._end_answers(soonest_s - _LAST_WORDS_S))
        await asyncio.to_thread(drain, [h.node_id for h in self._held.hosts if h not in leaving], soonest_s, why)

    async def _end_answers(self, after_s: float) -> None:
        await asyncio.sleep(max(0.0, after_s))
        self._broken.set()
