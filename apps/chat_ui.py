"""The Gradio page: chat with stop and regenerate, sampling controls, and the timing of each answer under it.

Heavy (imports Gradio), so only the chat's replica imports it.
"""

import base64
import mimetypes
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.chat_api import Answer, ChatApi, ModelInfo, Sampling
from apps.chat_args import ChatArgs
from apps.chat_login import Login
from apps.errors import OperationError

_THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # nothing from the net
_CSS = ".timing { opacity: .65; font-size: .85em }"
_TIMING = re.compile(r'\n\n<span class="timing">[^<]*</span>\s*$')
_MAX_IMAGE_BYTES = 10 * 1024 * 1024


def build_asgi_app(args: ChatArgs) -> ASGIApp:
    """The page as an ASGI app that works under Serve's route prefix and under a reverse proxy's prefix in front of it."""
    key_file = Path(args.api_key_file) if args.api_key_file else None
    blocks = build_page(ChatApi(str(args.api_url).rstrip("/"), args.first_token_timeout_s, key_file), args)
    blocks.queue(default_concurrency_limit=args.concurrency, max_size=args.queue_length)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    look: dict[str, Any] = {"footer_links": [], "theme": _THEME, "css": _CSS}
    if args.login_keys_file:
        look |= {"auth": Login(Path(args.login_keys_file)).check, "auth_message": "The name of your key, and the key."}
    gr.mount_gradio_app(app, blocks, path="/", show_error=False, max_file_size=_MAX_IMAGE_BYTES, **look)
    return Prefixed(app)


class Prefixed:
    """Tell the page under which path the browser sees it: `X-Forwarded-Prefix` of a proxy, then Serve's route prefix.

    Serve puts its prefix into ASGI's root_path and leaves it in the path; Gradio wants a root that it can put before its own
    routes (gradio#10116), and looks at forwarded headers itself for scheme and host.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix = scope.get("root_path", "")
            outer = _header(scope, b"x-forwarded-prefix").rstrip("/")
            path = scope["path"].removeprefix(prefix) or "/"
            scope = {**scope, "root_path": outer + prefix, "path": outer + prefix + path}
        await self._app(scope, receive, send)


def build_page(api: ChatApi, args: ChatArgs) -> gr.Blocks:
    """The page's controls and what they do."""
    with gr.Blocks(title=args.title, analytics_enabled=False, fill_height=True) as page:
        gr.Markdown(f"## {args.title}")
        models = gr.State([])
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                model = gr.Dropdown([], label="Model", elem_id="model")
                system = gr.Textbox("", label="System prompt", lines=3, max_length=20_000, elem_id="system")
                temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature", elem_id="temperature")
                top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top p", elem_id="top-p")
                max_tokens = gr.Slider(
                    1, args.max_tokens_limit, min(256, args.max_tokens_limit), step=1, label="Max tokens", elem_id="max-tokens"
                )
                thinking = gr.Checkbox(False, label="Think before answering", visible=False, elem_id="thinking")
            with gr.Column(scale=3):
                chatbot = gr.Chatbot(height="65vh", show_label=False, elem_id="chat", placeholder="Ask something.")
                box = gr.MultimodalTextbox(
                    show_label=False, placeholder="Message", sources=[], file_types=["image"], elem_id="box", stop_btn=True
                )
        controls = [model, system, temperature, top_p, max_tokens, thinking]
        _connect(page, api, models, controls, chatbot, box)
    return page


def _connect(
    page: gr.Blocks, api: ChatApi, models: gr.State, controls: list[Any], chatbot: gr.Chatbot, box: gr.MultimodalTextbox
) -> None:
    model, thinking = controls[0], controls[-1]

    async def load() -> Any:
        try:
            found = await api.models()
        except OperationError as error:
            raise gr.Error(str(error), print_exception=False) from None
        chosen = found[0].id if found else None
        return found, gr.Dropdown(choices=[m.id for m in found], value=chosen), *_abilities(found, chosen)

    def choose(found: list[ModelInfo], chosen: str) -> Any:
        return _abilities(found, chosen)

    async def respond(history: list[Any], found: list[ModelInfo], *values: Any) -> AsyncIterator[Any]:
        async for update in _respond(api, history, found, *values):
            yield update

    def retry(history: list[Any], event: gr.RetryData) -> list[Any]:
        return history[: event.index + 1]

    page.load(load, None, [models, model, box, thinking], show_progress="hidden")
    model.change(choose, [models, model], [box, thinking], show_progress="hidden")
    asked = box.submit(_take_question, [box, chatbot], [box, chatbot], queue=False)
    running = asked.then(respond, [chatbot, models, *controls], chatbot, show_progress="hidden")
    again = chatbot.retry(retry, chatbot, chatbot, queue=False)
    rerunning = again.then(respond, [chatbot, models, *controls], chatbot, show_progress="hidden")
    for done in (running, rerunning):
        done.then(lambda: gr.MultimodalTextbox(interactive=True, submit_btn=True, stop_btn=False), None, box, queue=False)
    box.stop(None, None, None, cancels=[running, rerunning])
    box.stop(lambda: gr.MultimodalTextbox(interactive=True, submit_btn=True, stop_btn=False), None, box, queue=False)


def _abilities(found: list[ModelInfo], chosen: str | None) -> tuple[Any, Any]:
    info = next((m for m in found if m.id == chosen), None)
    images = ["upload"] if info and info.takes_images else []
    return gr.MultimodalTextbox(sources=images), gr.Checkbox(visible=bool(info and info.thinks))


def _take_question(question: dict[str, Any], history: list[Any]) -> tuple[Any, list[Any]]:
    history = [*history, *({"role": "user", "content": {"path": path}} for path in question.get("files") or [])]
    if question.get("text", "").strip():
        history.append({"role": "user", "content": question["text"]})
    return gr.MultimodalTextbox(value=None, interactive=False, submit_btn=False, stop_btn=True), history


async def _respond(
    api: ChatApi,
    history: list[Any],
    found: list[ModelInfo],
    model: str | None,
    system: str,
    temperature: float,
    top_p: float,
    max_tokens: float,
    thinking: bool,
) -> AsyncIterator[list[Any]]:
    if not history or history[-1]["role"] != "user":
        return
    info = next((m for m in found if m.id == model), None)
    sampling = Sampling(temperature, top_p, int(max_tokens), thinking if info and info.thinks else None)
    try:
        async for answer in api.answer(model or "", to_messages(system, history), sampling):
            yield [*history, *_show(answer)]
    except OperationError as error:
        yield [*history, {"role": "assistant", "content": str(error), "metadata": {"title": "⚠ No answer"}}]


def _show(answer: Answer) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    if answer.reasoning:
        shown.append({"role": "assistant", "content": answer.reasoning, "metadata": {"title": "Thinking"}})
    timing = f'\n\n<span class="timing">{answer.summary()}</span>' if answer.completion_tokens is not None else ""
    shown.append({"role": "assistant", "content": answer.text + timing})
    return shown


def to_messages(system: str, history: list[Any]) -> list[dict[str, Any]]:
    """The conversation as OpenAI messages: no timings, thoughts or error lines; images as data URLs; same roles merged."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
    for turn in history:
        if (turn.get("metadata") or {}).get("title"):
            continue
        parts = [_without_timing(part) for part in _parts(turn["content"])]
        if messages and messages[-1]["role"] == turn["role"]:
            messages[-1]["content"] += parts
        else:
            messages.append({"role": turn["role"], "content": parts})
    return [{**m, "content": _simplify(m["content"])} for m in messages]


def _parts(content: Any) -> list[dict[str, Any]]:
    """Gradio's message content (text, a file, or a list of them) as OpenAI content parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return [part for item in content for part in _parts(item)]
    if content.get("type") == "text":
        return [{"type": "text", "text": content["text"]}]
    path = (content.get("file") or content)["path"]
    return [{"type": "image_url", "image_url": {"url": _data_url(Path(path))}}]


def _without_timing(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "text": _TIMING.sub("", part["text"])} if part["type"] == "text" else part


def _simplify(content: Any) -> Any:
    """Plain text where there is nothing but text: every server takes that."""
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
