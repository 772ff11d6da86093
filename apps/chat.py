"""The chat as a Ray Serve app of its own: a Gradio page that talks to the model over the OpenAI API, as any client does.

The page lives in `chat_ui`, the talking in `chat_api`; here are the arguments and the deployment.
"""

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from apps.chat_args import ChatArgs
from apps.checks.guard_rules import NEEDS_LOGIN
from apps.errors import UserError
from apps.imports import import_in_background
from apps.loopback import keep_replica_on_loopback, open_host


class Chat:
    """One replica serves every browser: Gradio keeps a conversation's queue in the process."""

    def __init__(self, args: ChatArgs) -> None:
        self._args = args

    async def __serve_build_asgi_app__(self) -> Any:
        # The page waits for the model anyway: its imports must not slow the model's start.
        await asyncio.to_thread(import_in_background, "apps.chat_ui")
        from apps.chat_api import read_key
        from apps.chat_ui import build_asgi_app

        if self._args.api_key_file:
            read_key(Path(self._args.api_key_file))  # a key that is not there ends the start, not the first question
        keep_replica_on_loopback()
        return build_asgi_app(self._args)


def build_app(args: ChatArgs) -> Application:
    """Build the app; nothing is contacted before the first visitor comes. Raises `UserError` for a door that is left open."""
    if not (args.login_keys_file or args.open) and (host := open_host()):
        raise UserError(f"login_keys_file: {NEEDS_LOGIN.format(host=host)}")
    deployment = serve.deployment(
        serve.ingress()(Chat),
        name="Chat",
        num_replicas=1,
        max_ongoing_requests=4 * (args.concurrency + args.queue_length),  # page files and queue polls beside the answers
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment.bind(args)
