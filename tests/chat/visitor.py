"""The chat on a real socket in front of the guard over the simulated engine, and a visitor who is no browser: no Ray."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from apps.chat.args import ChatArgs
from apps.chat.site import build_asgi_app
from tests.guard.hostile import leak_in

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64


@contextmanager
def chat(api_url: str, *, keyless: bool = True, **args: Any) -> Iterator[str]:
    """Serve the chat under /chat, as Serve does; gives its URL."""
    app = build_asgi_app(ChatArgs(api_url=api_url, **args), keyless=keyless)  # type: ignore[arg-type]

    async def as_serve_does(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/chat"}, receive, send)

    server = uvicorn.Server(uvicorn.Config(as_serve_does, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/chat"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


class Visitor(httpx.Client):
    """Does what the page does, or something worse."""

    def __init__(self, url: str, key: str | None = None) -> None:
        super().__init__(base_url=url, timeout=30, follow_redirects=True)
        self.page = "a1b2c3"
        if key:
            assert self.log_in(key).status_code == 200

    def __enter__(self) -> "Visitor":
        return self  # in use already, by its login

    def log_in(self, key: str) -> httpx.Response:
        return self.post("/login", data={"key": key})

    def settings(self) -> dict[str, Any]:
        """The settings that Gradio sends with the page."""
        text = self.get("/").text.partition("window.gradio_config = ")[2]
        config: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return config

    def fire(self, event: str, data: list[Any] | None = None, **more: Any) -> httpx.Response:
        """Send one of the page's events; without data, as many nulls as it takes."""
        dependencies = self.settings()["dependencies"]
        handler = next(entry for entry in dependencies if any(name == event for _, name in entry["targets"]))
        values = [None] * len(handler["inputs"]) if data is None else data
        return self.post(
            "/gradio_api/queue/join", json={"data": values, "fn_index": handler["id"], "session_hash": self.page, **more}
        )

    def events(self) -> str:
        """All that the page hears until what it has sent is done."""
        with self.stream("GET", f"/gradio_api/queue/data?session_hash={self.page}") as stream:
            text = "".join(stream.iter_text())
        assert not (leak := leak_in(text)), leak
        return text

    def do(self, event: str, data: list[Any] | None = None) -> str:
        sent = self.fire(event, data)
        assert sent.status_code == 200, sent.text
        return self.events()

    def ask(self, text: str, model: str, *files: str, max_tokens: int = 24) -> str:
        """Load the page, ask, and hear the whole answer."""
        self.do("load")
        self.do("submit", [{"text": text, "files": [as_file(path) for path in files]}])
        return self.answer(model, max_tokens)

    def answer(self, model: str, max_tokens: int = 24) -> str:
        handler = next(entry for entry in self.settings()["dependencies"] if len(entry["inputs"]) == 6)
        join = {"data": [model, "", 0, 1, max_tokens, False], "fn_index": handler["id"], "session_hash": self.page}
        assert self.post("/gradio_api/queue/join", json=join).status_code == 200
        return self.events()

    def upload(self, content: bytes = PNG, name: str = "a.png") -> httpx.Response:
        return self.post("/gradio_api/upload", files={"files": (name, content)})


def as_file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
