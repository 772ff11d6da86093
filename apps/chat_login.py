"""Who may see the chat page: whoever knows a key of the API and its name."""

import asyncio
from pathlib import Path

from apps.guard.answers import Refusal
from apps.guard.keyfile import WatchedKeys
from apps.guard.verifier import Verifier


class Login:
    """Against a keys file, which may change meanwhile. Wrong keys cost little, as in the guard. Raises `UserError`."""

    def __init__(self, keys_file: Path) -> None:
        self._keys = WatchedKeys([keys_file])
        self._verifier = Verifier(self._keys)

    async def check(self, name: str, key: str) -> bool:
        """True for the name and text of a usable key."""
        if await asyncio.to_thread(self._keys.refresh):
            self._verifier.forget_wrong()
        try:
            entry = await self._verifier.verify(key.strip().encode())
        except Refusal:
            return False
        return entry.name == name.strip()
