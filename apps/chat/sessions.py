"""Who is at the page: sessions in this process's memory. A visitor's key, conversations and images go with the session.

An image is never a file: what a client names is looked up among the images of its own session, and nowhere else.
"""

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from apps.chat.api import ModelInfo
from apps.chat.conversation import Conversation, Image
from apps.guard.answers import Refusal

MAX_IMAGE_BYTES = 10 * 1024 * 1024
_SESSIONS, _SESSIONS_OF_ONE_KEY = 1024, 32
_CONVERSATIONS = 8  # of one session: tabs
_REQUESTS = 32  # of one session, at once
_IMAGES, _IMAGE_BYTES = 16, 32 * 1024 * 1024  # of one session
_ALL_IMAGE_BYTES = 256 * 1024 * 1024
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass
class Session:
    """A visitor. `id` is the cookie's; `tag` keeps what Gradio has of this session apart from others', and is no secret."""

    key: str | None = field(repr=False)
    created_s: float
    used_s: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    tag: str = field(default_factory=lambda: secrets.token_hex(8))
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_REQUESTS))
    models: list[ModelInfo] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)
    _conversations: OrderedDict[str, Conversation] = field(default_factory=OrderedDict)

    def conversation(self, tab: str) -> Conversation:
        """The conversation of a browser's tab; the least recently used one makes room."""
        conversation = self._conversations.setdefault(tab, Conversation())
        self._conversations.move_to_end(tab)
        if len(self._conversations) > _CONVERSATIONS:
            self._conversations.popitem(last=False)
        return conversation

    def image_bytes(self) -> int:
        return sum(len(image.content) for image in self.images.values())


class Sessions:
    """All sessions: bounded in number, in all and for a key, and in time, idle and in all."""

    def __init__(self, idle_s: float, life_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s, self._life_s, self._clock = idle_s, life_s, clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # least recently used first

    def create(self, key: str | None) -> Session:
        """A new session, for which old ones may have to go: of the same key first."""
        self._end_expired()
        count = Counter(session.key for session in self._sessions.values())
        if key is not None and count[key] >= _SESSIONS_OF_ONE_KEY:
            self.end(next(session for session in self._sessions.values() if session.key == key))
        if len(self._sessions) >= _SESSIONS:
            self._sessions.popitem(last=False)
        session = Session(key, now := self._clock(), now)
        self._sessions[session.id] = session
        return session

    def get(self, id: str) -> Session | None:
        """The session with this id, if it has not ended; asking for it is using it."""
        self._end_expired()
        session = self._sessions.get(id)
        if session is None or self._clock() - session.created_s > self._life_s:
            self._sessions.pop(id, None)
            return None
        session.used_s = self._clock()
        self._sessions.move_to_end(id)
        return session

    def end(self, session: Session) -> None:
        self._sessions.pop(session.id, None)

    def keep_image(self, session: Session, content: bytes, directory: str) -> str:
        """Keep an image; the name, under which this session alone finds it, looks like a file in that directory.

        Raises:
            Refusal: no image of a known kind, or more than a session, or all of them, may keep.
        """
        kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)
        if kind is None:
            raise Refusal(415, f"The model cannot read this kind of file (allowed: {', '.join(_KINDS.values())}).", "no_image")
        self._check_room(session, len(content))
        name = f"{directory}/{secrets.token_hex(16)}.{kind}"
        session.images[name] = Image(kind, content)
        return name

    def _check_room(self, session: Session, size: int) -> None:
        if size > MAX_IMAGE_BYTES:
            raise Refusal(413, f"An image may have at most {MAX_IMAGE_BYTES >> 20} MiB.", "image_too_large")
        if len(session.images) >= _IMAGES or session.image_bytes() + size > _IMAGE_BYTES:
            allowed = f"{_IMAGES} images and {_IMAGE_BYTES >> 20} MiB"
            raise Refusal(413, f"A session keeps at most {allowed}: log out to start a new one.", "too_many_images")
        if sum(other.image_bytes() for other in self._sessions.values()) + size > _ALL_IMAGE_BYTES:
            raise Refusal(
                503,
                "The chat has no room for more images at the moment. Try again later.",
                "busy",
                headers={"retry-after": "60"},
            )

    def _end_expired(self) -> None:
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if self._clock() - oldest.used_s <= self._idle_s:
                return
            self.end(oldest)
