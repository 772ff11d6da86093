"""Put the chat together: Gradio's page, the sessions, and the door that everything goes through."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from apps.chat.api import ChatApi
from apps.chat.args import ChatArgs
from apps.chat.door import Door
from apps.chat.login import Login
from apps.chat.page import THEME, build_page
from apps.chat.sessions import Sessions


def build_asgi_app(args: ChatArgs, *, keyless: bool = True) -> ASGIApp:
    """The chat as an ASGI app. `keyless`: where the API asks for no key, visitors need none either."""
    api = ChatApi(str(args.api_url).rstrip("/"), args.first_token_timeout_s)
    sessions = Sessions(args.session_idle_s, args.session_s)
    blocks = build_page(api, args, sessions)
    blocks.queue(default_concurrency_limit=args.concurrency, max_size=args.queue_length)
    blocks.has_launched = True  # mounting does not say so, and without it Gradio lets a client name any file
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    appearance = {"footer_links": [], "theme": THEME, "css_paths": Path(__file__).with_name("page.css")}
    gr.mount_gradio_app(app, blocks, path="/", show_error=False, run_history=False, **appearance)
    return Door(app, len(blocks.fns), sessions, Login(api, sessions, args.title, keyless=keyless))
