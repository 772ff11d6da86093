"""The Gradio page: chat with stop, retry and edit, sampling controls, and the timing of each answer under it.

Nothing but settings and the question comes from the browser: the conversation, the models and the key are in the session, which
the door puts into the request. Heavy (imports Gradio), so only the chat's replica imports it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from apps.chat.api import ChatApi, KeyRefusedError, ModelInfo, Sampling
from apps.chat.args import ChatArgs
from apps.chat.conversation import Conversation, Image
from apps.chat.payload import IMAGE
from apps.chat.sessions import Session, Sessions
from apps.common.errors import OperationError

_FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the net
THEME = gr.themes.Default(**_FONTS).set(
    body_text_color_subdued="*neutral_500", input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400"
)
IMAGES = get_upload_folder()
"""Where Gradio takes names of files from; nothing is written there."""
SESSION = "chat_session"
"""Where the door puts the visitor's session, in a request's ASGI scope."""
_FORMULAS = [
    {"left": left, "right": right, "display": left != r"\("} for left, right in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"))
]
_PLACEHOLDER = "Ask something."
_TAB = "x-chat-tab"
"""The header in which the page's own script names the browser's tab."""
_POLL_S = 2  # for the models of a server that still starts


def build_page(api: ChatApi, args: ChatArgs, sessions: Sessions) -> gr.Blocks:
    """The page's controls and what they do. On a narrow screen the settings follow below the conversation."""
    with gr.Blocks(title=args.title, analytics_enabled=False, fill_height=True) as page:
        with gr.Row(equal_height=True):
            gr.Markdown(f"# {args.title}")
            leave = gr.Button("Log out", link="logout", size="sm", scale=0, min_width=90, visible=False, elem_id="logout")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3):
                chatbot = gr.Chatbot(
                    height="calc(100dvh - 14rem)",
                    min_height="16rem",
                    show_label=False,
                    elem_id="chat",
                    placeholder=_PLACEHOLDER,
                    editable="user",
                    latex_delimiters=_FORMULAS,
                    buttons=["copy", "copy_all"],
                )
                box = gr.MultimodalTextbox(
                    show_label=False, placeholder="Message", sources=[], file_types=["image"], elem_id="box"
                )
            with gr.Column(scale=1, min_width=280):
                model = gr.Dropdown([], label="Model", elem_id="model")
                system = gr.Textbox("", label="System prompt", lines=3, max_length=20_000, elem_id="system")
                temperature = gr.Slider(0, 2, args.temperature, step=0.05, label="Temperature", elem_id="temperature")
                top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top p", elem_id="top-p")
                max_tokens = gr.Slider(
                    1, args.max_tokens_limit, min(256, args.max_tokens_limit), step=1, label="Max tokens", elem_id="max-tokens"
                )
                thinking = gr.Checkbox(False, label="Think before answering", visible=False, elem_id="thinking")
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

    def load(self, request: gr.Request) -> Any:
        """Show what the tab's conversation has: an answer that was being written to the page before has ended."""
        conversation = _conversation(request)
        conversation.leave()
        return conversation.shown(), _box(answering=False), gr.Button(visible=_session(request).key is not None)

    async def find_models(self, request: gr.Request) -> Any:
        """Fill the model list; while the server has no models, say why, and have the page ask again."""
        session = _session(request)
        try:
            session.models = await self._api.models(session.key)
            why = "No model is served yet."
        except OperationError as error:
            self._end_if_refused(session, error)
            why = str(error)
        models = session.models
        chosen = models[0].id if models else None
        return (
            gr.Dropdown(choices=[model.id for model in models], value=chosen),
            *_abilities(session, chosen),
            gr.Chatbot(placeholder=_PLACEHOLDER if models else why),
            gr.Timer(active=not models),
        )

    def choose(self, chosen: str, request: gr.Request) -> Any:
        return _abilities(_session(request), chosen)

    def ask(self, question: dict[str, Any], request: gr.Request) -> Any:
        images = _images(_session(request), question.get("files") or [])
        text = question.get("text", "").strip()
        if not text and not images:
            raise gr.Error("Write a message first.", print_exception=False)
        with _errors_shown():
            _conversation(request).ask(text, images)
        return _box(answering=True, value=None), _conversation(request).shown()

    def retry(self, event: gr.RetryData, request: gr.Request) -> Any:
        return self._again(request, event.index)

    def edit(self, event: gr.EditData, request: gr.Request) -> Any:
        return self._again(request, event.index, str(event.value))

    def _again(self, request: gr.Request, index: Any, text: str | None = None) -> Any:
        with _errors_shown():
            _conversation(request).ask_again(int(index), text)
        return _box(answering=True), _conversation(request).shown()

    async def respond(self, request: gr.Request, *values: Any) -> AsyncIterator[Any]:
        session, conversation = _session(request), _conversation(request)
        if not conversation.rounds or (answer := conversation.rounds[-1].answer).ended:
            return
        model, system, temperature, top_p, max_tokens, thinking = values
        thinks = thinking if _info(session, model).thinks else None
        try:
            if not model:
                raise OperationError("The server has no model yet. Retry asks again.")
            sampling = Sampling(temperature, top_p, int(max_tokens), thinks)
            with self._one_of_its_share(session):
                async for _ in self._api.answer(session.key, model, conversation.messages(system), sampling, answer):
                    yield conversation.shown()
                    if answer.ended:  # the visitor left it
                        return
        except OperationError as error:
            self._end_if_refused(session, error)
            answer.problem, answer.ended = str(error), True
        finally:
            if not answer.ended:
                answer.stop()
        yield conversation.shown()

    def stop(self, request: gr.Request) -> Any:
        conversation = _conversation(request)
        conversation.leave()
        return _box(answering=False), conversation.shown()

    def clear(self, request: gr.Request) -> Any:
        _conversation(request).clear()
        return _box(answering=False)

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
    poll = gr.Timer(_POLL_S, active=False)

    at_once: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    for moment in (page.load, poll.tick):
        moment(visits.find_models, None, [model, box, thinking, chatbot, poll], **at_once)
    page.load(visits.load, None, [chatbot, box, leave], **at_once)
    model.change(visits.choose, model, [box, thinking], **at_once)
    asked = box.submit(visits.ask, box, [box, chatbot], **at_once)
    again = [
        event(then, None, [box, chatbot], **at_once)
        for event, then in ((chatbot.retry, visits.retry), (chatbot.edit, visits.edit))
    ]
    running = [question.success(visits.respond, controls, chatbot, show_progress="minimal") for question in (asked, *again)]
    for done in running:
        done.then(lambda: _box(answering=False), None, box, **at_once)
    chatbot.clear(visits.clear, None, box, cancels=running, **at_once)
    box.stop(visits.stop, None, [box, chatbot], cancels=running, **at_once)


def _box(*, answering: bool, **more: Any) -> gr.MultimodalTextbox:
    """An update of the message box. Made anew each time: one with `render=False` would show the browser an object's address."""
    return gr.MultimodalTextbox(submit_btn=not answering, stop_btn=answering, **more)


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Have the page say what cannot be done."""
    try:
        yield
    except OperationError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _session(request: gr.Request) -> Session:
    session: Session = request.request.scope[SESSION]
    return session


def _conversation(request: gr.Request) -> Conversation:
    return _session(request).conversation(request.request.headers.get(_TAB, "")[:32])


def _images(session: Session, names: list[str]) -> dict[str, Image]:
    """Uploaded images, by the address at which the page finds them."""
    if any(name not in session.images for name in names):
        raise gr.Error("You can only ask about images that you have uploaded.", print_exception=False)
    return {f"{IMAGE.removeprefix('/')}{name}": session.images[name] for name in names}


def _info(session: Session, chosen: str | None) -> ModelInfo:
    """What a model can do: nothing where there is no such model."""
    return next((model for model in session.models if model.id == chosen), ModelInfo(""))


def _abilities(session: Session, chosen: str | None) -> tuple[Any, Any]:
    info = _info(session, chosen)
    return gr.MultimodalTextbox(sources=["upload"] if info.takes_images else []), gr.Checkbox(visible=info.thinks)
