"""From the text of an `Authorization` header to a key of the file: microseconds for a key that was seen before, one hash else.

A wrong key must not cost others anything: hashes are computed one at a time off the event loop, few may wait, two at most for
one id, and an id that is in no entry costs none. All refusals of a key take the same time, so that it tells nothing.
"""

import asyncio
import hmac
import secrets
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from apps.guard.answers import Refusal
from apps.guard.keyfile import WatchedKeys
from apps.guard.keys import Entry, split_key

_WRONG_REMEMBERED = 4096
_WAITING, _WAITING_PER_ID = 32, 2
_REFUSAL_S = 0.15  # above the time of one hash


class Verifier:
    """The verifier of one guard. Its methods belong to one event loop."""

    def __init__(self, keys: WatchedKeys) -> None:
        self._keys = keys
        self._entries = keys.entries
        """Those that the memory below is about."""
        self._hmac = hmac.new(secrets.token_bytes(32), digestmod="sha256")
        self._known: dict[bytes, tuple[str, str]] = {}
        """Id and hash that a key's digest was found right for."""
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._hashing: dict[bytes, asyncio.Future[bool]] = {}
        self._per_id: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard-hash")

    async def verify(self, text: bytes | None) -> Entry:
        """The usable entry of a key.

        Raises:
            Refusal: 401 for a missing, wrong, expired or disabled key, 429 if too many unknown keys are being verified.
        """
        if not text:
            raise _unauthorized(_MISSING)
        entry = self._recognise(text) or await self._verify_slowly(text)
        if not entry.usable(datetime.now(UTC)):
            raise _unauthorized("This API key is disabled." if entry.disabled else "This API key has expired.")
        return entry

    def _forget_if_changed(self) -> None:
        """Forget wrong keys, which may be right now. Those that were right are compared with the file's hashes each time."""
        if self._entries is not self._keys.entries:
            self._entries = self._keys.entries
            self._wrong.clear()
            self._known = {digest: known for digest, known in self._known.items() if known[0] in self._entries}

    def _recognise(self, text: bytes) -> Entry | None:
        known = self._known.get(self._digest(text))
        entry = self._keys.entries.get(known[0]) if known else None
        return entry if entry and known and entry.hash == known[1] else None

    async def _verify_slowly(self, text: bytes) -> Entry:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._find(text)
        except Refusal:
            await asyncio.sleep(max(0.0, began + _REFUSAL_S - clock()))
            raise

    async def _find(self, text: bytes) -> Entry:
        self._forget_if_changed()
        digest, parts = self._digest(text), split_key(text)
        entry = self._keys.entries.get(parts[0]) if parts else None
        if entry is None or parts is None or digest in self._wrong:
            raise _unauthorized(_INCORRECT)
        if await asyncio.shield(self._hash_once(digest, parts[0], parts[1], entry)):
            self._known[digest] = (parts[0], entry.hash)
            return entry
        self._wrong[digest] = None
        if len(self._wrong) > _WRONG_REMEMBERED:
            self._wrong.popitem(last=False)
        raise _unauthorized(_INCORRECT)

    def _hash_once(self, digest: bytes, id: str, secret: bytes, entry: Entry) -> "asyncio.Future[bool]":
        """Compute the hash once for all requests that wait for the same new key."""
        if digest in self._hashing:
            return self._hashing[digest]
        if len(self._hashing) >= _WAITING or self._per_id[id] >= _WAITING_PER_ID:
            raise Refusal(
                429, "Too many unknown API keys are being verified.", "rate_limit_exceeded", headers={"retry-after": "1"}
            )
        self._per_id[id] += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, entry.matches, secret)
        self._hashing[digest] = future

        def done(_: object) -> None:
            del self._hashing[digest]
            self._per_id -= Counter([id])  # which forgets it at 0

        future.add_done_callback(done)
        return future

    def _digest(self, text: bytes) -> bytes:
        made = self._hmac.copy()
        made.update(text)
        return made.digest()


_INCORRECT = "The API key is incorrect."
_MISSING = "No API key was given: send it as Authorization: Bearer KEY."


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
