"""Log in with an API key, which the API itself checks: the chat has no list of keys, and no key of its own."""

import asyncio
import html
import re
import string
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from apps.chat.api import ChatApi
from apps.chat.bodies import BodyReads, read_form
from apps.chat.sessions import Session, Sessions
from apps.common.errors import OperationError

COOKIE = "chat_session"
_BODIES = {"max_bytes": 4096, "seconds": 10, "number": 512}
_FIELDS = 4
_RETRY_S = 5  # until a page without a server is asked for again
_AGAIN = f"<script>setTimeout(() => location.reload(), {_RETRY_S * 1000})</script>"
_CHECKS, _WAITING = 4, 32  # keys that the API is asked about at once, and those that wait for it
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_NO_KEY_ASKED = "The API asks for no key, and other machines can reach this chat: set open: true in its config to serve them."
_TEMPLATE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">$again
<title>$title</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0 1rem }
  main { width: min(24rem, 100%) }
  label, input, button { display: block; width: 100%; box-sizing: border-box; margin-top: .6rem; font: inherit }
  input, button { padding: .6rem; border-radius: .5rem; border: 1px solid #8888 }
  button { background: #c2410c; color: #fff; border: 0; cursor: pointer }
  [role=alert] { color: #dc2626 }
</style></head>
<body><main><h1>$title</h1>$message$form</main></body></html>
""")
_FORM = string.Template("""<form method="post" action="$action">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="off" required autofocus>
<button>Log in</button></form>""")


class Login:
    """Who gets a session. `keyless`: nobody needs a key where the API asks for none."""

    def __init__(self, api: ChatApi, sessions: Sessions, title: str, *, keyless: bool) -> None:
        self._api, self._sessions, self._title, self._keyless = api, sessions, title, keyless
        self._bodies = BodyReads(**_BODIES)
        self._checks, self._places = asyncio.Semaphore(_CHECKS), asyncio.Semaphore(_CHECKS + _WAITING)

    async def welcome(self, request: Request) -> Session | Response:
        """A session for a visitor without one, where the API asks for no key; else the page that asks for it."""
        try:
            if not await self._accepts(None):
                return self._page(request)
        except OperationError as error:
            return self._page(request, str(error), HTTPStatus.SERVICE_UNAVAILABLE, form=False)
        if not self._keyless:
            return self._page(request, _NO_KEY_ASKED, HTTPStatus.FORBIDDEN, form=False)
        return self._sessions.create(None)

    async def enter(self, request: Request) -> Response:
        """Answer a sent form. Raises what `BodyReads.read` and `read_form` raise."""
        body = await self._bodies.read(request)
        form = await read_form(request, body, _FIELDS)
        key = str(form.get("key", "")).strip()
        try:
            if await self._accepts(None) and not self._keyless:
                return self._page(request, _NO_KEY_ASKED, HTTPStatus.FORBIDDEN, form=False)
            if not _KEY.fullmatch(key) or not await self._accepts(key):
                return self._page(request, "The API does not accept this key.", HTTPStatus.UNAUTHORIZED)
        except OperationError as error:
            return self._page(request, str(error), HTTPStatus.SERVICE_UNAVAILABLE)
        response = RedirectResponse(_root(request), HTTPStatus.SEE_OTHER)
        give_cookie(request, response, self._sessions.create(key))
        return response

    def leave(self, request: Request, session: Session | None) -> Response:
        """End the session, and everything that it kept."""
        if session:
            self._sessions.end(session)
        response = RedirectResponse(_root(request), HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, path=_root(request))
        return response

    async def _accepts(self, key: str | None) -> bool:
        if self._places.locked():
            raise OperationError("Too many visitors are logging in. Try again in a moment.")
        async with self._places, self._checks:
            return await self._api.accepts(key)

    def _page(self, request: Request, message: str = "", status: int = HTTPStatus.OK, *, form: bool = True) -> Response:
        alert = f'<p role="alert">{html.escape(message)}</p>' if message else ""
        asked = _FORM.substitute(action=html.escape(f"{_root(request)}login")) if form else ""
        again = "" if form or status != HTTPStatus.SERVICE_UNAVAILABLE else _AGAIN
        text = _TEMPLATE.substitute(title=html.escape(self._title), again=again, message=alert, form=asked)
        return HTMLResponse(text, status, {"retry-after": str(_RETRY_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None)


def give_cookie(request: Request, response: Response, session: Session) -> None:
    """Let the browser send the session's id, to this chat alone; scripts cannot read it."""
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, session.id, path=_root(request), httponly=True, samesite="strict", secure=secure)


def _root(request: Request) -> str:
    """The path under which the browser sees the chat."""
    return f"{request.scope['root_path']}/"
