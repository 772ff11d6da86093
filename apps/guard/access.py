"""Who may use what: paths (one that is in no list does not exist for clients), models, and a server without keys."""

import json
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Message, Send

from apps.common.loopback import is_loopback
from apps.guard.answers import Refusal
from apps.guard.settings import GuardArgs, is_control

_MODELS = "/v1/models"


class Access(Enum):
    """Who may use a path."""

    PUBLIC = "anybody"
    KEY = "key"
    """Anybody too where the server is open; limits hold all the same."""
    ADMIN = "admin"
    DENIED = "nobody"


class Routes:
    """The lists of the settings. With `open: true` there are no admins, so their routes are closed."""

    def __init__(self, args: GuardArgs) -> None:
        self._exact: dict[str, Access] = {}
        self._prefixes: list[tuple[str, Access]] = []
        self._add(args.admin_routes, Access.DENIED if args.open else Access.ADMIN)
        self._add(args.routes, Access.KEY)
        self._add(args.keyless_routes, Access.PUBLIC)

    def find(self, path: str) -> tuple[Access, str]:
        """Who may use a path, as the server behind sees it (decoded, without Serve's prefix), and the entry that says so."""
        if access := self._exact.get(path):
            return access, path
        for prefix, access in self._prefixes:
            # A wildcard must not open what the lists may not name.
            if path.startswith(prefix) and (access not in (Access.KEY, Access.PUBLIC) or not is_control(path)):
                return access, f"{prefix}*"
        return Access.DENIED, ""

    def _add(self, paths: Iterable[str], access: Access) -> None:
        for path in paths:
            if path.endswith("/*"):
                self._prefixes.append((path[:-1], access))
            else:
                self._exact[path] = access


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Raise `Refusal` 403 for a request from another site's web page to a server without keys that only this machine reaches.

    A page can send some without asking, though it cannot read the answer; one whose name was made to mean this machine (DNS
    rebinding) can do both, but its browser sends that name.
    """
    for header, address in ((b"host", b"//" + headers.get(b"host", b"localhost")), (b"origin", headers.get(b"origin"))):
        if address is not None and not _is_here(address):
            message = (
                f"The {header.decode()} header names another host, but a server without keys answers this machine alone: "
                "use 127.0.0.1 or localhost, or give the server keys (guard: {keys_files: [...]})."
            )
            raise Refusal(403, message, "forbidden_origin")


def _is_here(address: bytes) -> bool:
    try:
        return is_loopback(urlsplit(address.decode("ascii")).hostname or "")
    except ValueError:
        return False


def check_model(model: Any, allowed: Collection[str] | None) -> None:
    """Raise `Refusal` 404 for a model that is not among the allowed ones; None allows all."""
    if allowed is not None and model not in allowed:
        shown = repr(model)[:200] if model is not None else "used by default"
        raise Refusal(404, f"The model {shown} does not exist, or this key may not use it.", "model_not_found", param="model")


def only_allowed_models(allowed: Collection[str] | None, path: str, send: Send) -> Send:
    """A `send` for a GET, which leaves only the allowed models in a list of them. Raises as `check_model` for another one."""
    if allowed is None or not path.startswith(_MODELS):
        return send
    if path.startswith(f"{_MODELS}/"):
        check_model(path.removeprefix(f"{_MODELS}/"), allowed)
        return send
    begun: Message = {}
    parts: list[bytes] = []

    async def send_allowed(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.update(message)
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            body = _without_others(b"".join(parts), allowed)
            headers = [(name, value) for name, value in begun.get("headers", []) if name != b"content-length"]
            await send({**begun, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

    return send_allowed


def _without_others(body: bytes, allowed: Collection[str]) -> bytes:
    """A list of models without the others; what is no such list as it is: an error, or nothing (HEAD)."""
    try:
        listed = json.loads(body)
        kept = [model for model in listed["data"] if model["id"] in allowed]
    except (ValueError, KeyError, TypeError):
        return body
    return json.dumps({**listed, "data": kept}).encode()
