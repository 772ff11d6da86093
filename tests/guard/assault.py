"""The hostile run: requests of all kinds at once from many threads, and beside them a client that only wants its answers."""

import json
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from hypothesis import strategies as st

from tests.chat import hostile as hostile_chat
from tests.chat.visitor import Visitor
from tests.guard import hostile, nasty_grammars
from tests.guard.hostile import LEAKS, Hostile, Repeated, drawn, leak_in

SHARES = {"drawn": 0.4, "token ids": 0.15, "grammars": 0.1, "large": 0.05, "chat": 0.15, "slow": 0.15}
THREADS = {"drawn": 8, "token ids": 4, "grammars": 5, "large": 2, "chat": 6}
LIMITS = {"max_tokens": 4, "context_tokens": 512}
"""Limits of the key that the attack has."""
_PATIENCE_S = {"grammars": 3, "chat": 5}  # then the client leaves, and a grammar is compiled all the same
_SLOW_AT_ONCE = 300
_DOCUMENTED = ("grammar_compiler_unavailable", '"busy"', "Too many visitors are logging in")
"""What a 503 may say: apps/guard/grammar_compiler.py, apps/chat/sessions.py and login.py."""
_OPEN = ("/health", "/-/routes")
"""What needs no key."""
_SIGNS = re.compile(r"root:x:0|scrypt|\bPATH=/")
"""Signs of /etc/passwd, the keys file, an environment."""


@dataclass
class Assault:
    """`chat` is the chat's address, ending in /chat; `key` the attack's, with `LIMITS`, `polite` that of the one beside it."""

    url: str
    chat: str
    model: str
    key: str
    polite: str
    secrets: tuple[str, ...]
    """What no answer may hold."""
    slow_s: float = 15
    """When a slow client leaves. HAProxy ends half a head after 10 s."""
    statuses: defaultdict[str, Counter[object]] = field(default_factory=lambda: defaultdict(Counter))
    waits: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds that the polite client waited, by what it asked for."""
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, requests: int) -> dict[str, list[Hostile]]:
        """All but the slow ones, by kind; the same each time."""
        strategies = {
            "drawn": hostile.requests(self.model),
            "token ids": hostile.of_ids(self.model),
            "grammars": st.builds(self._of_grammar, nasty_grammars.requests),
            "large": hostile.large(self.model),
            "chat": hostile_chat.requests(),
        }
        return {kind: drawn(strategy, round(SHARES[kind] * requests)) for kind, strategy in strategies.items()}

    def run(self, requests: Mapping[str, list[Hostile]], slow: int) -> None:
        """Send them all; raises what any of them, or the polite client, finds wrong."""
        self._over.clear()
        before = self.requests
        total = slow + sum(map(len, requests.values()))
        with ThreadPoolExecutor(sum(THREADS.values()) + 2) as threads:
            polite = threads.submit(self._be_polite)
            sent = [threads.submit(self._drip, slow, lambda: (self.requests - before) / total)]
            for kind, hostiles in requests.items():
                for first in range(THREADS[kind]):
                    sent.append(threads.submit(self._send, kind, hostiles[first :: THREADS[kind]]))
            try:
                for future in as_completed(sent):
                    future.result()
            finally:
                self._over.set()
            polite.result()

    def measure_alone(self, rounds: int = 30) -> float:
        """Seconds within which the polite client has nearly all of its answers while nothing else is asked."""
        waits: defaultdict[str, list[float]] = defaultdict(list)
        with self._polite_requests() as requests:
            for _ in range(rounds):
                self._ask_all(requests, waits)
        return max(sorted(took)[int(len(took) * 0.9)] for took in waits.values())

    def check(self, request: Hostile, answer: httpx.Response, text: str) -> None:
        """What no answer may be."""
        shown = f"{request}: {answer.status_code} {text[:500]}"
        assert answer.status_code < 500 or (answer.status_code == 503 and any(words in text for words in _DOCUMENTED)), shown
        assert not (leak := leak_in(text)), f"{leak}: {shown}"
        assert not _SIGNS.search(text), shown
        assert not any(secret in text for secret in self.secrets), shown
        if request.path.startswith("/chat"):
            assert request.with_key or answer.status_code != 200 or "gradio" not in text, shown
            return
        assert request.with_key or answer.status_code != 200 or request.path in _OPEN, shown
        if answer.status_code >= 400 and request.method != "HEAD":
            assert json.loads(text)["error"]["message"], shown
        elif request.method == "POST" and answer.headers.get("content-type") == "application/json":
            body = json.loads(text)
            if usage := body.get("usage"):
                choices = len(body["choices"])
                assert usage["completion_tokens"] <= LIMITS["max_tokens"] * choices, shown
                assert usage["prompt_tokens"] <= LIMITS["context_tokens"] * choices, shown

    def report(self) -> str:
        """Answers by status, and how long the polite client waited."""
        lines = [f"{kind}: {sum(by.values())} {dict(sorted(by.items(), key=str))}" for kind, by in self.statuses.items()]
        for kind, took in self.waits.items():
            took = sorted(took)
            median, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
            slow = sum(seconds > 2 for seconds in took)
            worst = f"worst {took[-1]:.3f} s, {slow} slower than 2 s"
            lines.append(f"beside them {kind}: {len(took)}, median {median:.3f}, p99 {p99:.3f}, {worst}")
        return "\n".join(lines)

    def quantile(self, share: float) -> float:
        """Seconds within which the polite client had this share of its answers, of whatever kind took longest."""
        return max(sorted(took)[min(len(took) - 1, int(len(took) * share))] for took in self.waits.values())

    @property
    def requests(self) -> int:
        """That were answered, or given up."""
        with self._lock:
            return sum(sum(by.values()) for by in self.statuses.values())

    def note(self, kind: str, outcome: object) -> None:
        """A request was answered with this status, or ended otherwise."""
        with self._lock:
            self.statuses[kind][outcome] += 1

    def _of_grammar(self, grammar: dict[str, Any]) -> Hostile:
        body = {"model": self.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **grammar}
        raw = json.dumps(body).encode("utf-8", "surrogatepass")
        return Hostile("POST", "/v1/chat/completions", [(b"content-type", b"application/json")], raw, True)

    def _send(self, kind: str, hostiles: list[Hostile]) -> None:
        with httpx.Client(timeout=_PATIENCE_S.get(kind, 60)) as http:
            sender = _Sender(self, kind, http)
            for request in hostiles:
                if not self._over.is_set():
                    sender.fire(request)

    def _be_polite(self) -> None:
        with self._polite_requests() as requests:
            while not self._over.wait(0.05):
                self._ask_all(requests, self.waits)

    @contextmanager
    def _polite_requests(self) -> Iterator[dict[str, Callable[[], httpx.Response]]]:
        headers = {"authorization": f"Bearer {self.polite}"}
        body = {"model": self.model, "prompt": "Water boils at", "max_tokens": 4}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as http, Visitor(self.chat, self.polite) as visitor:
            yield {
                "models": lambda: http.get("/v1/models"),
                "completions": lambda: http.post("/v1/completions", json=body),
                "chat page": lambda: visitor.get("/"),
            }

    def _ask_all(self, requests: Mapping[str, Callable[[], httpx.Response]], waits: dict[str, list[float]]) -> None:
        for kind, ask in requests.items():
            began = time.monotonic()
            answer = ask()
            waits[kind].append(time.monotonic() - began)
            assert answer.status_code == 200, (kind, answer.text[:300])

    def _drip(self, connections: int, progress: Callable[[], float]) -> None:
        """Clients that send a byte now and then, spread over the run; they leave after some time."""
        where = [urlsplit(self.chat) if number in (4, 5) else urlsplit(self.url) for number in range(8)]
        heads = self._slow_heads()
        held: dict[socket.socket, float] = {}
        opened = 0
        while (opened < connections or held) and not self._over.is_set():
            room = min(connections * (progress() + 0.25), connections) - opened
            for _ in range(round(min(room, _SLOW_AT_ONCE - len(held), 40))):
                address, head = where[opened % 8], heads[opened % 8]
                connection = socket.create_connection((address.hostname or "", address.port or 0))
                connection.sendall(head)
                connection.setblocking(False)
                held[connection] = time.monotonic()
                opened += 1
            time.sleep(0.25)
            for connection, since in list(held.items()):
                if outcome := self._dripped(connection, time.monotonic() - since):
                    self.note("slow", outcome)
                    connection.close()
                    del held[connection]

    def _dripped(self, connection: socket.socket, seconds: float) -> object:
        """One byte more; what has ended it, if anything has."""
        try:
            connection.send(b" ")
            answer = connection.recv(65536).decode("latin-1")
        except BlockingIOError:
            return "left" if seconds > self.slow_s else None
        except OSError as error:
            return type(error).__name__
        assert not LEAKS.search(answer), answer
        assert not answer or answer.startswith("HTTP/1.1 4"), answer
        return int(answer.split(" ")[1]) if answer else "closed"

    def _slow_heads(self) -> list[bytes]:
        """Half a head, and whole ones of large bodies: without a key, with a wrong one, with a right one; to the chat."""
        post = "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        api, length, chunked = (
            post.format("/v1/completions"),
            "content-length: 999\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n",
        )
        right, wrong = (f"authorization: Bearer {key}\r\n" for key in (self.key, "rts_000000000000_" + "0" * 48))
        chat = [post.format(f"/chat{path}") + length for path in ("/login", "/gradio_api/queue/join")]
        heads = [api + "x-half: ", api + length, api + wrong + length, api + right + length, *chat]
        heads += [api + right + chunked + "5\r\n{", post.format("/tokenize") + right + length + "{"]
        return [head.encode() for head in heads]


class _Sender:
    """Sends requests of one kind, one after the other, with a session of the chat."""

    def __init__(self, assault: Assault, kind: str, http: httpx.Client) -> None:
        self._assault, self._kind, self._http = assault, kind, http
        self._cookie: str | None = None

    def fire(self, request: Hostile) -> None:
        in_chat = request.path.startswith("/chat")
        base = self._assault.chat.removesuffix("/chat") if in_chat else self._assault.url
        url = base + quote(request.path, safe="/=?&:%.", errors="replace")
        content = _chunks(request.body) if isinstance(request.body, Repeated) and request.in_chunks else bytes(request.body)
        headers = [*request.headers, *(self._credentials(in_chat) if request.with_key else [])]
        self._http.cookies.clear()
        try:
            with self._http.stream(request.method, url, headers=headers, content=content) as answer:
                text = _heard(answer, _PATIENCE_S.get(self._kind, 60))
        except httpx.TransportError as error:
            if not isinstance(request.body, Repeated) and self._kind not in _PATIENCE_S:
                raise AssertionError(f"{request} was broken off") from error
            self._assault.note(self._kind, type(error).__name__)
            return
        if request.path == "/chat/logout" or answer.status_code == 401:
            self._cookie = None
        self._assault.note(self._kind, answer.status_code)
        self._assault.check(request, answer, text)

    def _credentials(self, in_chat: bool) -> list[tuple[bytes, bytes]]:
        if not in_chat:
            return [(b"authorization", f"Bearer {self._assault.key}".encode())]
        if self._cookie is None:
            with suppress(httpx.TransportError, AssertionError), Visitor(self._assault.chat, self._assault.key) as visitor:
                self._cookie = visitor.cookies["chat_session"]
        return [(b"cookie", f"chat_session={self._cookie}".encode())]


def _heard(answer: httpx.Response, patience_s: float) -> str:
    """All of it, or what comes within that time."""
    parts, until = [], time.monotonic() + patience_s
    for part in answer.iter_bytes():
        parts.append(part)
        if time.monotonic() > until:
            break
    return b"".join(parts).decode(errors="replace")


def _chunks(body: Repeated) -> Iterator[bytes]:
    whole = bytes(body)
    return (whole[at : at + 65536] for at in range(0, len(whole), 65536))
