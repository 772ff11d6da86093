"""The guard as a class that a web server loads, also with nothing but its app: settings come from the environment then."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.common.errors import UserError
from apps.common.settings import GUARD_VARIABLE, guard_settings
from apps.guard.admission import Admission
from apps.guard.housekeeping import Housekeeping
from apps.guard.settings import ReplicaGuard

_EXPOSED = [
    "x-request-id",
    "retry-after",
    *(f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in ("requests", "tokens")),
]


class GuardMiddleware:
    """Middleware that lets through what may be answered.

    Raises:
        UserError: on construction, where the settings or the keys cannot be read: the server does not start.
    """

    def __init__(self, app: ASGIApp, settings: ReplicaGuard | None = None) -> None:
        settings = settings or _from_environment()
        self._behind = app
        self.housekeeping = Housekeeping(settings.args)
        self._app: ASGIApp = Admission(app, settings, self.housekeeping)
        if settings.args.allowed_origins:
            self._app = CORSMiddleware(
                self._app,
                allow_origins=settings.args.allowed_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing that users need uses it
        else:
            await self._behind(scope, receive, send)


def _from_environment() -> ReplicaGuard:
    text = guard_settings()
    if not text:
        raise UserError(
            f'{GUARD_VARIABLE} is not set: set it to the guard\'s settings as JSON, such as {{"args": {{"open": true}}}}'
        )
    return ReplicaGuard.parse(text)
