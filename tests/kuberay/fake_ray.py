"""A head as a deployment meets it, for pods in which nothing runs: it takes a Serve config, and then all of it runs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kuberay.versions import pinned


class FakeRay:
    """`deployed` is the Serve config that it has, `tokens` are those that it was shown."""

    def __init__(self) -> None:
        self.deployed: dict[str, Any] = {"applications": []}
        self.started = False
        self.tokens: set[str | None] = set()
        self.failures: dict[str, str | None] = {}
        """Messages of apps that fail; None for one that never gets anywhere."""

    def names(self) -> set[str]:
        return {app["name"] for app in self.deployed["applications"]}

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if verb == "PUT":
            self.deployed, self.started = body, True
        if path.endswith("/chat/completions"):
            return {"choices": [{"message": {"role": "assistant", "content": "Because their chips are wired to each other."}}]}
        if "version" in path:
            return {"version": "4", "ray_version": pinned("ray"), "ray_commit": ""}
        apps = {app["name"]: self._status(app) for app in self.deployed["applications"]}
        controller = {"actor_id": "1"} if self.started else {}
        return {"applications": apps, "controller_info": controller, "http_options": self.deployed.get("http_options")}

    def _status(self, app: dict[str, Any]) -> dict[str, Any]:
        status, message = "RUNNING", ""
        if app["name"] in self.failures:
            message = self.failures[app["name"]] or ""
            status = "DEPLOY_FAILED" if message else "DEPLOYING"
        return {"status": status, "message": message, "deployments": {}, "deployed_app_config": app}


@contextmanager
def running_fake_ray() -> Iterator[tuple[FakeRay, int]]:
    """A fake head, and its port on loopback: dashboard and API are one here."""
    ray = FakeRay()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or "{}")
            ray.tokens.add(self.headers.get("authorization"))
            answer = json.dumps(ray.answer(self.command, self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = handle_one  # noqa: N815 - the names that the server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ray, server.server_port
    finally:
        server.shutdown()
        server.server_close()
