"""The chat template of a base model, rendered as transformers and vLLM render it."""

import jinja2
import jinja2.sandbox
import pytest

from apps.checks.llm_rules import TEMPLATES


def render(*messages: dict[str, object], add_generation_prompt: bool = True) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string((TEMPLATES / "base_model.jinja").read_text())
    return template.render(messages=messages, bos_token="<bos>", add_generation_prompt=add_generation_prompt)


def test_one_question_follows_answered_ones() -> None:
    text = render({"role": "user", "content": "Hi "})
    assert text.startswith(
        "<bos>Question: What is the capital of Italy?\nAnswer: The capital of Italy is Rome.\n\n\nQuestion: "
    )
    assert text.endswith("0 degrees Celsius.\n\n\nQuestion: Hi\nAnswer:")


def test_conversation_with_system_and_parts() -> None:
    conversation: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
    ]
    text = render(*conversation, {"role": "user", "content": "Bye"})
    assert text.startswith("<bos>Be brief.\n\n\nQuestion: ")
    assert text.endswith("Question: Hi\nAnswer: Hello\n\n\nQuestion: Bye\nAnswer:")
    assert render(*conversation, add_generation_prompt=False).endswith("Question: Hi\nAnswer: Hello")  # to be continued


def test_unknown_role_is_refused() -> None:
    with pytest.raises(jinja2.TemplateError, match="role tool is not supported"):
        render({"role": "tool", "content": "x"})
