"""What every request to the chat goes through before Gradio: a session, a list of routes, bounds, and headers for the browser.

Nothing of Gradio can be reached without a session, and with one only what the page uses.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.chat import payload
from apps.chat.bodies import BodyReads, read_form
from apps.chat.login import COOKIE, Login, give_cookie
from apps.chat.page import IMAGES, SESSION
from apps.chat.sessions import MAX_IMAGE_BYTES, Session, Sessions
from apps.guard.answers import Refusal
from apps.guard.bodies import ClientLeftError, discard_body, replaying, whole_answer

_MESSAGES = {"max_bytes": 256 * 1024, "seconds": 10, "number": 256}
_UPLOADS = {"max_bytes": MAX_IMAGE_BYTES + 64 * 1024, "seconds": 60, "number": 8}
_FILES_AT_ONCE = 4
_DISCARDED_BYTES = 1024 * 1024
_PREFIX = re.compile(r"(?:/[\w.~-]+)*")
_SCRIPT = re.compile(rb"<script[^>]*>(.*?)</script>", re.DOTALL)
_MANIFEST = re.compile(rb'<link rel="manifest"[^>]*>')
"""The manifest of an app to install: the browser fetches it without a cookie, and from the root of the host."""
_PAGE_SCRIPT = b"<script>%b</script>" % Path(__file__).with_name("page.js").read_bytes()
_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Door:
    """The chat's outermost ASGI app, around Gradio's, whose page has that many events."""

    def __init__(self, app: ASGIApp, events: int, sessions: Sessions, login: Login) -> None:
        self._app, self._events, self._sessions, self._login = app, events, sessions, login
        self._messages, self._uploads = BodyReads(**_MESSAGES), BodyReads(**_UPLOADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # the page needs none
        else:
            await self._answer(_under_prefix(scope), receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def receive_noting_end() -> Message:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        try:
            response = await self._response(Request(scope, receive_noting_end), send)
        except ClientLeftError:
            return
        except Refusal as refusal:
            if not whole:
                await discard_body(receive, _DISCARDED_BYTES)
            response = Response(refusal.body(), refusal.status, refusal.headers, "application/json")
        if response:
            if response.media_type == "text/html":
                response.headers["content-security-policy"] = _policy(bytes(response.body))
            response.headers.setdefault("cache-control", "no-store")
            await response(scope, receive, send)

    async def _response(self, request: Request, send: Send) -> Response | None:
        """What to answer; None where Gradio has answered."""
        path, method = _path(request.scope), request.method
        _refuse_other_sites(request, path)
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        if (method, path) == ("POST", "/login"):
            return await self._login.enter(request)
        if (method, path) == ("GET", "/logout"):
            return self._login.leave(request, session)
        if method == "GET" and path in ("", "/", "/login"):
            return await self._page(request, path, session)
        if session is None:
            raise Refusal(401, "Your session has ended. Reload the page.", "no_session")
        if session.requests.locked():
            raise Refusal(429, "This session has too many requests at once.", "too_many_requests", headers={"retry-after": "1"})
        async with session.requests:
            return await self._inside(request, send, path, session)

    async def _page(self, request: Request, path: str, session: Session | None) -> Response:
        if path != "/":
            return RedirectResponse(f"{request.scope['root_path']}/", 303)
        visitor = session or await self._login.welcome(request)
        response = await self._gradios_page(request, visitor) if isinstance(visitor, Session) else visitor
        if session is None and isinstance(visitor, Session):
            give_cookie(request, response, visitor)
        return response

    async def _gradios_page(self, request: Request, session: Session) -> Response:
        """Read the page whole: its policy names the scripts in it, and no other can run."""
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"accept-encoding"]
        scope = {**request.scope, "headers": headers, "query_string": b"", SESSION: session}
        status, body = await whole_answer(self._app, scope, replaying(b"", request.receive))
        return Response(_MANIFEST.sub(lambda _: _PAGE_SCRIPT, body), status, media_type="text/html")

    async def _inside(self, request: Request, send: Send, path: str, session: Session) -> Response | None:
        method, scope = request.method, {**request.scope, SESSION: session}
        if method == "POST" and path in (payload.JOIN, payload.CANCEL):
            body = await self._messages.read(request)
            body = payload.checked(path, body, self._events, session.tag, session.images)
            await self._app(_with_length(scope, body), replaying(body, request.receive), send)
        elif method == "POST" and path == payload.UPLOAD:
            return await self._keep_images(request, session)
        elif method == "GET" and path.startswith(payload.IMAGE):
            return _image(session, path.removeprefix(payload.IMAGE))
        elif method == "GET" and (stream := payload.STREAMS.fullmatch(path)):
            await self._app(_of_session(scope, stream["page"], session), request.receive, send)
        elif method in ("GET", "HEAD") and payload.FILES.fullmatch(path) and ".." not in path:
            await self._app({**scope, "query_string": b""}, replaying(b"", request.receive), send)
        else:
            raise Refusal(404, "There is nothing here.", "not_found")
        return None

    async def _keep_images(self, request: Request, session: Session) -> Response:
        body = await self._uploads.read(request)
        names = []
        form = await read_form(request, body, _FILES_AT_ONCE)
        try:
            for part in form.getlist("files"):
                if not isinstance(part, str):
                    names.append(self._sessions.keep_image(session, await part.read(), IMAGES))
        finally:
            await form.close()
        return JSONResponse(names)


def _under_prefix(scope: Scope) -> Scope:
    """Tell the page under which path the browser sees it: `X-Forwarded-Prefix` of a proxy, then Serve's route prefix.

    Serve puts its prefix into ASGI's root_path and leaves it in the path; Gradio wants a root that it can put before its own
    routes (gradio#10116), and looks at forwarded headers itself for scheme and host.
    """
    prefix = scope.get("root_path", "")
    outer = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
    outer = outer if _PREFIX.fullmatch(outer) else ""
    path = scope["path"].removeprefix(prefix)
    return {**scope, "root_path": outer + prefix, "path": outer + prefix + path}


def _path(scope: Scope) -> str:
    return str(scope["path"].removeprefix(scope["root_path"]))


def _refuse_other_sites(request: Request, path: str) -> None:
    """Refuse what another page had the browser send: a visitor may follow a link to the page, no more."""
    site = request.headers.get("sec-fetch-site", "")
    if site not in ("", "same-origin", "none") and not (request.method == "GET" and path in ("", "/")):
        raise Refusal(403, "Other sites may not use the chat.", "other_site")


def _image(session: Session, name: str) -> Response:
    if (image := session.images.get(name)) is None:
        raise Refusal(404, "There is no such image in this session.", "not_found")
    return Response(image.content, 200, None, image.media_type)


def _of_session(scope: Scope, page: str | None, session: Session) -> dict[str, Any]:
    """A stream's scope with its page's name, in path or query, made the session's own."""
    if page:
        return {**scope, "path": f"{scope['path']}-{session.tag}"}
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    if not payload.PAGE.fullmatch(asked):
        raise Refusal(400, "session_hash is missing, or not what the page sends.", "invalid_query")
    return {**scope, "query_string": f"session_hash={payload.own_page(asked, session.tag)}".encode()}


def _with_length(scope: Scope, body: bytes) -> dict[str, Any]:
    kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}


def _policy(page: bytes) -> str:
    """The page's Content-Security-Policy: its own scripts, and nothing from elsewhere, whatever an answer has in it."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _SCRIPT.findall(page)]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
    )


def _with_headers(send: Send) -> Send:
    """Add the headers that every answer has, and drop Gradio's invitations to other origins."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if not name.startswith(b"access-control-")]
            if not any(name == b"content-security-policy" for name, _ in kept):
                kept.append((b"content-security-policy", _NOTHING.encode()))
            message = {**message, "headers": [*kept, *_HEADERS.items()]}
        await send(message)

    return sending
