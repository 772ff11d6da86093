"""The Gemma turn format, rendered as transformers and vLLM render it."""

import jinja2
import jinja2.sandbox
import pytest

from apps.checks.llm_rules import TEMPLATES


def render(*messages: dict[str, object], add_generation_prompt: bool = True) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string((TEMPLATES / "gemma_turns.jinja").read_text())
    return template.render(messages=messages, bos_token="<bos>", add_generation_prompt=add_generation_prompt)


def test_one_question() -> None:
    assert render({"role": "user", "content": "Hi "}) == "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"


def test_conversation_with_system_and_parts() -> None:
    text = render(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        add_generation_prompt=False,
    )
    assert text == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n"
    )


def test_unknown_role_is_refused() -> None:
    with pytest.raises(jinja2.TemplateError, match="role tool is not supported"):
        render({"role": "tool", "content": "x"})
