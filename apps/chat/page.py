"""The Gradio page: chat with stop and regenerate, sampling controls, and the timing of each answer under it.

Nothing but settings and the question comes from the browser: the conversation, the models and the key are in the session, which
the door puts into the request. Heavy (imports Gradio), so only the chat's replica imports it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from apps.chat.api import Answer, ChatApi, KeyRefusedError, ModelInfo, Sampling
from apps.chat.args import ChatArgs
from apps.chat.conversation import ChatMessage, Conversation, to_messages
from apps.chat.payload import IMAGE
from apps.chat.sessions import Session, Sessions
from apps.common.errors import OperationError

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # nothing from the net
CSS = ".timing { opacity: .65; font-size: .85em } #chat .message img { max-height: 14rem; width: auto }"
IMAGES = get_upload_folder()
"""Where Gradio takes names of files from; nothing is written there."""
SESSION = "chat_session"
"""Where the door puts the visitor's session, in a request's ASGI scope."""


def build_page(api: ChatApi, args: ChatArgs, sessions: Sessions) -> gr.Blocks:
    """The page's controls and what they do."""
    with gr.Blocks(title=args.title, analytics_enabled=False, fill_height=True) as page:
        with gr.Row(equal_height=True):
            gr.Markdown(f"## {args.title}")
            leave = gr.Button("Log out", link="logout", size="sm", scale=0, min_width=90, visible=False, elem_id="logout")
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
                chatbot = gr.Chatbot(
                    height="65vh", show_label=False, elem_id="chat", placeholder="Ask something.", buttons=["copy", "copy_all"]
                )
                box = gr.MultimodalTextbox(
                    show_label=False, placeholder="Message", sources=[], file_types=["image"], elem_id="box", stop_btn=True
                )
        controls = [model, system, temperature, top_p, max_tokens, thinking]
        _connect(page, Visits(api, sessions, max(1, args.concurrency // 2)), controls, chatbot, box, leave)
    return page


class Visits:
    """What the page's events do, each for the session that the request came with. A key has `share` answers at once."""

    def __init__(self, api: ChatApi, sessions: Sessions, share: int) -> None:
        self._api = api
        self._sessions = sessions
        self._share = share
        self._answers = Counter[str]()

    async def load(self, request: gr.Request) -> Any:
        session = _session(request)
        try:
            session.models = await self._api.models(session.key)
        except OperationError as error:
            self._end_if_refused(session, error)
            raise gr.Error(str(error), print_exception=False) from None
        chosen = session.models[0].id if session.models else None
        choices = gr.Dropdown(choices=[m.id for m in session.models], value=chosen)
        return choices, gr.Button(visible=session.key is not None), *_abilities(session, chosen)

    def choose(self, chosen: str, request: gr.Request) -> Any:
        return _abilities(_session(request), chosen)

    def take_question(self, question: dict[str, Any], request: gr.Request) -> Any:
        session = _session(request)
        messages = [_image_message(session, name) for name in question.get("files") or []]
        if text := question.get("text", "").strip():
            messages.append(ChatMessage("user", text, text))
        conversation = _conversation(request)
        try:
            conversation.add(messages)
        except OperationError as error:
            raise gr.Error(str(error), print_exception=False) from None
        waiting = gr.MultimodalTextbox(value=None, interactive=False, submit_btn=False, stop_btn=True)
        return waiting, conversation.as_messages()

    async def respond(self, *values: Any, request: gr.Request) -> AsyncIterator[Any]:
        session, conversation = _session(request), _conversation(request)
        model, system, *settings = values
        asked = conversation.messages
        if not asked or asked[-1].role != "user":
            return
        try:
            with self._one_of_its_share(session):
                answers = self._api.answer(
                    session.key, model or "", to_messages(system, asked), _sampling(session, model, *settings)
                )
                async for answer in answers:
                    conversation.messages = [*asked, *_answer_messages(answer)]
                    yield conversation.as_messages()
        except OperationError as error:
            self._end_if_refused(session, error)
            conversation.messages = [*asked, ChatMessage("assistant", str(error), title="⚠ No answer")]
            yield conversation.as_messages()

    def retry(self, event: gr.RetryData, request: gr.Request) -> Any:
        conversation = _conversation(request)
        conversation.messages = conversation.messages[: int(event.index) + 1]
        return conversation.as_messages()

    def clear(self, request: gr.Request) -> None:
        _conversation(request).messages = []

    @contextmanager
    def _one_of_its_share(self, session: Session) -> Iterator[None]:
        """Count an answer against its key's share of those streamed at once: else one key could keep all others waiting."""
        who = session.key or session.tag
        if self._answers[who] >= self._share:
            raise OperationError(f"{self._share} answers are being streamed to this key. Ask again when one of them is done.")
        self._answers[who] += 1
        try:
            yield
        finally:
            self._answers -= Counter([who])  # which forgets it at 0

    def _end_if_refused(self, session: Session, error: OperationError) -> None:
        if isinstance(error, KeyRefusedError):
            self._sessions.end(session)


def _connect(
    page: gr.Blocks,
    visits: Visits,
    controls: list[Any],
    chatbot: gr.Chatbot,
    box: gr.MultimodalTextbox,
    leave: gr.Button,
) -> None:
    model, thinking = controls[0], controls[-1]

    async def respond(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
        async for update in visits.respond(*values, request=request):
            yield update

    def ready() -> Any:
        return gr.MultimodalTextbox(interactive=True, submit_btn=True, stop_btn=False)

    at_once: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    page.load(visits.load, None, [model, leave, box, thinking], **at_once)
    model.change(visits.choose, model, [box, thinking], **at_once)
    asked = box.submit(visits.take_question, box, [box, chatbot], **at_once)
    running = asked.success(respond, controls, chatbot, show_progress="hidden")
    again = chatbot.retry(visits.retry, None, chatbot, **at_once)
    rerunning = again.success(respond, controls, chatbot, show_progress="hidden")
    for done in (running, rerunning):
        done.then(ready, None, box, **at_once)
    chatbot.clear(visits.clear, None, None, **at_once)
    box.stop(ready, None, box, cancels=[running, rerunning], **at_once)


def _session(request: gr.Request) -> Session:
    session: Session = request.request.scope[SESSION]
    return session


def _conversation(request: gr.Request) -> Conversation:
    return _session(request).conversation(str(request.session_hash))


def _image_message(session: Session, name: str) -> ChatMessage:
    if (image := session.images.get(name)) is None:
        raise gr.Error("You can only ask about images that you have uploaded.", print_exception=False)
    # As text: what Gradio shows as a file has a button that sends it to a foreign site.
    return ChatMessage("user", f"![image]({IMAGE.removeprefix('/')}{name})", image)


def _info(session: Session, chosen: str | None) -> ModelInfo | None:
    return next((model for model in session.models if model.id == chosen), None)


def _abilities(session: Session, chosen: str | None) -> tuple[Any, Any]:
    info = _info(session, chosen)
    images = ["upload"] if info and info.takes_images else []
    return gr.MultimodalTextbox(sources=images), gr.Checkbox(visible=bool(info and info.thinks))


def _sampling(
    session: Session, model: str | None, temperature: float, top_p: float, max_tokens: float, thinking: bool
) -> Sampling:
    info = _info(session, model)
    return Sampling(temperature, top_p, int(max_tokens), thinking if info and info.thinks else None)


def _answer_messages(answer: Answer) -> list[ChatMessage]:
    thoughts = [ChatMessage("assistant", answer.reasoning, title="Thinking")] if answer.reasoning else []
    timing = f'\n\n<span class="timing">{answer.summary()}</span>' if answer.completion_tokens is not None else ""
    return [*thoughts, ChatMessage("assistant", answer.text + timing, answer.text)]
