"""A conversation as the page shows it and as the model is asked: refusals, retries, edits, and text that looks like HTML."""

import time
from collections.abc import Callable

import pytest

from apps.chat.api import Answer
from apps.chat.conversation import Conversation, Image
from apps.chat.markup import as_shown, as_written
from apps.common.errors import OperationError

PICTURE = {"file=x.png": Image("png", b"png")}


def asked(*rounds: tuple[str, Answer]) -> Conversation:
    conversation = Conversation()
    for text, answer in rounds:
        conversation.ask(text, {})
        conversation.rounds[-1].answer = answer
    return conversation


def test_a_conversation_becomes_messages() -> None:
    conversation = Conversation()
    conversation.ask("What is it?", PICTURE)
    conversation.rounds[0].answer = Answer("A cat.", "hmm", ended=True)
    conversation.ask("Sure?", {})
    messages = conversation.messages("Be brief.")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"][0]["image_url"]["url"] == "data:image/png;base64,cG5n"
    assert messages[1]["content"][1] == {"type": "text", "text": "What is it?"}
    assert messages[2]["content"] == "A cat."
    assert messages[3]["content"] == "Sure?"
    assert [message["content"] for message in conversation.shown()][:2] == ["![image](file=x.png)\n\nWhat is it?", "hmm"]


def test_what_was_refused_is_shown_and_not_sent_again() -> None:
    conversation = asked(
        ("too long", Answer(problem="refused", ended=True)), ("half", Answer("so far", problem="cut", ended=True))
    )
    conversation.ask("short", {})
    assert [message["content"] for message in conversation.messages("")] == ["half", "so far", "short"]
    refused, half = (message["content"] for message in conversation.shown() if message["role"] == "assistant")
    assert refused == '<span class="problem">⚠ No answer: refused</span>'
    assert half == 'so far\n\n<span class="problem">⚠ The answer is not whole: cut</span>'


def test_one_question_at_a_time() -> None:
    conversation = asked(("first", Answer("w0")))
    with pytest.raises(OperationError, match="An answer is being written"):
        conversation.ask("second", {})
    with pytest.raises(OperationError, match="An answer is being written"):
        conversation.ask_again(0)
    conversation.leave()
    assert "stopped" in conversation.shown()[-1]["content"]
    conversation.ask("second", {})


def test_a_question_is_asked_again_as_it_was_or_edited() -> None:
    conversation = asked(("one", Answer("1", ended=True)), ("two", Answer("2", "hm", ended=True)))
    conversation.ask("List<int>?", PICTURE)
    conversation.leave()
    (question,) = [shown for shown in conversation.shown() if "List" in shown["content"]]
    conversation.ask_again(conversation.shown().index(question), question["content"] + "!")
    assert conversation.rounds[-1].text == "List<int>?!"
    assert conversation.rounds[-1].images == PICTURE
    conversation.leave()
    conversation.ask_again(2)
    assert [pair.text for pair in conversation.rounds] == ["one", "two"]
    conversation.leave()
    with pytest.raises(OperationError, match="is gone"):
        conversation.ask_again(1)  # an answer


def test_a_conversation_has_an_end() -> None:
    conversation = asked(*[("x", Answer("y", ended=True))] * 200)
    with pytest.raises(OperationError, match="limit"):
        conversation.ask("x", {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<I am an answer.>", "<\u2060I am an answer.>"),
        ("a < b, </b> <!-- x", "a < b, <\u2060/b> <\u2060!-- x"),
        ("<https://example.com>", "<https://example.com>"),
        ("`List<int>` and ``a`<b>`` and <b>", "`List<int>` and ``a`<b>`` and <\u2060b>"),
        ("```html\n<a> $x$\n```\n<a>", "```html\n<a> $x$\n```\n<\u2060a>"),
        ("~~~\n<a>\n```\n<b>", "~~~\n<a>\n```\n<b>"),  # still streams
        ("$a_1 < b$ is", "\\(a_1 < b\\) is"),
        ("$5 and $6, US$7$, \\$8$", "$5 and $6, US$7$, \\$8$"),
        ("$$x$$ and \\(y\\)", "$$x$$ and \\(y\\)"),
    ],
)
def test_text_is_neither_html_nor_loses_its_formulas(text: str, shown: str) -> None:
    assert as_shown(text) == shown
    assert "\u2060" not in as_written(shown)


def test_runs_of_backticks_hold_nobody_up() -> None:
    """A visitor's text is shown again with each token, while others wait: runs without a partner cost seconds each time."""
    runs = "".join("x" + "`" * length for length in range(1, 600))
    plain = "x" * len(runs)
    assert cpu_s(lambda: as_shown(runs)) < max(0.1, 100 * cpu_s(lambda: as_shown(plain)))


def test_rounds_that_have_ended_are_not_rendered_with_each_token() -> None:
    conversation = asked(*[(f"{number} `a` <b> $x$ " * 500, Answer("y <z> " * 500, ended=True)) for number in range(30)])
    first = cpu_s(conversation.shown)
    assert cpu_s(conversation.shown) < first / 5


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
