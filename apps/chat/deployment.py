"""The chat's deployment: one replica with page and sessions in its memory. The page itself is made in `site`."""

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application

from apps.chat.args import ChatArgs
from apps.common.imports import import_in_background
from apps.common.loopback import keep_replica_on_loopback, open_host

_MAX_REQUESTS = 4096  # what HAProxy takes at once: the door sheds slow ones itself, where Serve would keep everybody out


class Chat:
    """One replica serves every browser: sessions, and Gradio's queue, are in the process."""

    def __init__(self, args: ChatArgs, *, keyless: bool) -> None:
        self._args = args
        self._keyless = keyless

    async def __serve_build_asgi_app__(self) -> Any:
        # The page waits for the model anyway: its imports must not slow the model's start.
        await asyncio.to_thread(import_in_background, "apps.chat.site")
        from apps.chat.site import build_asgi_app

        keep_replica_on_loopback()
        return build_asgi_app(self._args, keyless=self._keyless)


def bind(args: ChatArgs) -> Application:
    """The app. Without a key nobody is served beyond this machine, unless the config says so."""
    deployment = serve.deployment(
        serve.ingress()(Chat),
        name="Chat",
        num_replicas=1,
        max_ongoing_requests=_MAX_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment.bind(args, keyless=args.open or open_host() is None)
