"""The table of fields: whole against the models that read them, and each rule against values that nobody means well with."""

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel

from apps.guard import generation_request
from apps.guard.answers import Refusal
from apps.guard.bodies import parse_json
from apps.guard.field_rules import Rule, check_fields
from apps.guard.fields import CHAT, COMPLETIONS, DETOKENIZE, MEDIA, TABLES, TOKENIZE, Table
from apps.guard.settings import Bounds
from tests.guard.served import MODEL, post, served

BOUNDS = Bounds()
NAMED = [(path, name) for path, table in TABLES.items() for name in table]


@pytest.fixture(scope="module")
def vllms() -> list[tuple[Table, type[BaseModel]]]:
    """vLLM's request models, each with our table."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeCompletionRequest

    return [
        (CHAT, ChatCompletionRequest),
        (COMPLETIONS, CompletionRequest),
        (TOKENIZE, TokenizeChatRequest),
        (TOKENIZE, TokenizeCompletionRequest),
        (DETOKENIZE, DetokenizeRequest),
    ]


def parts(annotation: Any) -> Iterator[type]:
    """All classes in a type, however they are put together."""
    if args := typing.get_args(annotation):
        for argument in args:
            yield from parts(argument)
    elif inspect.isclass(annotation):
        yield annotation


def fields_of(model: type) -> dict[str, Any]:
    """Names (and aliases) of a pydantic model's or a dataclass's fields, with their types."""
    if issubclass(model, BaseModel):
        named = {name: info.annotation for name, info in model.model_fields.items()}
        return named | {info.alias: info.annotation for info in model.model_fields.values() if info.alias}
    if dataclasses.is_dataclass(model):
        return {field.name: field.type for field in dataclasses.fields(model) if field.init}
    return {}


def missing(model: type, table: typing.Mapping[str, Rule], path: str = "") -> Iterator[str]:
    for name, annotation in fields_of(model).items():
        rule = table.get(name)
        if rule is None:
            yield f"{path}{name}"
        elif not rule.is_unbounded:
            for inner in (part for part in parts(annotation) if fields_of(part)):
                assert rule.fields is not None, f"{path}{name} is an object of fields, which its rule does not check"
                yield from missing(inner, rule.fields, f"{path}{name}.")


def test_each_field_that_vllm_reads_has_a_rule_at_any_depth(vllms: list[tuple[Table, type[BaseModel]]]) -> None:
    assert {f"{model.__name__}.{name}" for table, model in vllms for name in missing(model, table)} == set()


def test_each_field_that_openais_client_sends_has_a_rule() -> None:
    for table, params in ((CHAT, chat_params.CompletionCreateParamsBase), (COMPLETIONS, CompletionCreateParamsBase)):
        assert [name for name in typing.get_type_hints(params) if name not in table] == []


def test_no_rule_is_for_a_field_that_nobody_reads(vllms: list[tuple[Table, type[BaseModel]]]) -> None:
    known = {name for _, model in vllms for name in fields_of(model)}
    known |= set(typing.get_type_hints(chat_params.CompletionCreateParamsBase))
    known |= set(typing.get_type_hints(CompletionCreateParamsBase)) | {"stream"}
    assert {name for table in TABLES.values() for name in table} - known == set()


def test_each_part_of_a_message_that_is_no_text_counts_as_media() -> None:
    from vllm.entrypoints.chat_utils import ChatCompletionContentPartParam

    text = {"text", "type", "uuid", "refusal", "thinking", "closed", "name", "file", "prompt_cache_breakpoint", "detail"}
    names: set[str] = set()
    waiting = [ChatCompletionContentPartParam]
    while waiting:
        part: Any = waiting.pop()
        if typing.get_origin(part) in (typing.Union, types.UnionType):
            waiting.extend(typing.get_args(part))
        else:
            names |= set(getattr(part, "__annotations__", {}))
    assert "image_url" in names
    assert names - text - MEDIA == set()


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


_NUMBERS = ("a number", "4,200", "such")
HUGE: dict[str, Any] = {
    "a number beyond all floats": float("inf"),
    "4,200 digits": 10**4200,
    "such a number, deep": {"5": [{"a": float("inf")}]},
    "many of them": ["x"] * 100_000,
    "many numbers": [2**62] * 100_000,
    "many names": {str(n): 1 for n in range(100_000)},
    "a deep object": deep(2000),
    "a long text": "x" * 100_000,
}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_no_field_takes_what_is_huge(path: str, name: str) -> None:
    table = TABLES[path]
    rule = table[name]
    for what, value in HUGE.items():
        if rule.is_unbounded and not what.startswith(_NUMBERS):
            continue  # its size is that of the body, and other modules' to bound
        fields = {name: value}
        assert refuses_body(fields, table) if what.startswith(_NUMBERS) else refused(fields, table), f"{name} takes {what}"
    check_fields({name: None}, table, BOUNDS)


def refuses_body(fields: dict[str, Any], table: Table) -> bool:
    """Whether fields are refused as a client sends them: what is no number to others does not get past the parser."""
    raw = json.dumps(fields).replace("Infinity", "1e999").encode()
    try:
        return refused(parse_json(raw, 100, BOUNDS.json_depth), table)
    except Refusal:
        return True


def refused(fields: dict[str, Any], table: Table) -> bool:
    try:
        check_fields(fields, table, BOUNDS)
    except Refusal:
        return True
    return False


BAD: dict[str, tuple[str, str]] = {
    "an infinite bias": ('{"logit_bias": {"5": 1e999}}', "logit_bias.5 must be a number between -100 and 100"),
    "logprobs by id": (json.dumps({"logprob_token_ids": [5]}), "logprob_token_ids is not for clients to set"),
    "no logprobs by id": (json.dumps({"logprob_token_ids": []}), "logprob_token_ids is not for clients to set"),
    "long patterns": (
        '{"repetition_detection": {"max_pattern_size": 1000000000, "min_count": 2}}',
        "repetition_detection.max_pattern_size must be an integer between 0 and 1024",
    ),
    "an unknown field": ('{"max_token": 5}', "max_token is not a field that this server knows. Did you mean max_tokens?"),
    "a large unknown field": (json.dumps({"x": [[]] * 100_000}), "x is not a field"),
    "an unknown field inside": ('{"stream_options": {"a": 1}}', "stream_options.a is not a field"),
    "a large field of OpenAI's": (json.dumps({"metadata": {str(n): "x" for n in range(2000)}}), "metadata is too large"),
    "a turn before others": ('{"priority": -5}', "priority must be an integer between 0 and 0"),
    "a template": ('{"chat_template": "{{ 1 }}"}', "chat_template is not for clients to set: the model's own"),
    "another server": ('{"kv_transfer_params": {"remote_host": "10.0.0.1"}}', "kv_transfer_params is not for clients"),
    "options of the image processor": ('{"mm_processor_kwargs": {"a": 1}}', "mm_processor_kwargs is not for clients"),
    "objects for the template": ('{"chat_template_kwargs": {"a": {}}}', "chat_template_kwargs.a must be a number"),
    "a truth in words": ('{"ignore_eos": "yes"}', "ignore_eos must be true or false"),
    "a word of its own": ('{"truncation_side": "up"}', "truncation_side must be one of left, right"),
    "best of": ('{"best_of": 5}', "best_of must be an integer between 1 and 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_rule_refuses_is_a_400_that_says_why(case: str) -> None:
    text, words = BAD[case]
    fields = json.loads(text)
    chat = not fields.keys() & (COMPLETIONS.keys() - CHAT.keys()) and "best_of" not in fields
    with pytest.raises(Refusal) as caught:
        generation_request.parse(text.encode(), fields, BOUNDS, chat=chat)
    assert (caught.value.status, caught.value.message[: len(words)]) == (400, words)


@pytest.mark.parametrize("tokens", [[1099511627776], [-1], [True], [1.0], [1, "2"], 5])
def test_token_ids_that_are_none_reach_no_tokenizer(tokens: Any) -> None:
    with pytest.raises(Refusal):
        generation_request.check_other("/detokenize", {"tokens": tokens}, BOUNDS)
    with pytest.raises(Refusal):
        generation_request.parse(b"", {"prompt": tokens}, BOUNDS, chat=False)


def test_what_clients_ordinarily_send_is_let_through() -> None:
    chat = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi", "annotations": []}],
        **{"temperature": 1, "top_p": 0.9, "max_completion_tokens": 5, "stop": None, "user": "me", "logit_bias": {"5": -1}},
        **{"stream": True, "stream_options": {"include_usage": True}, "metadata": {"a": "b"}, "store": False},
        **{"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto", "parallel_tool_calls": True},
        **{"chat_template_kwargs": {"enable_thinking": True}, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
    }
    check_fields(chat, CHAT, BOUNDS)
    check_fields({"prompt": ["a", "b"], "echo": True, "logprobs": 3, "suffix": None}, COMPLETIONS, BOUNDS)


@pytest.mark.parametrize("config", [{"vocab_size": 1000}, {"text_config": {"vocab_size": 1000}, "vocab_size": 2000}])
def test_a_token_that_the_model_does_not_have_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with served(None, tmp_path, model=str(tmp_path)) as server:
        for prompt, status in (([999], 200), ([1000], 400), ([[1], [5, 1000]], 400), ("1000", 200)):
            answer = post(server, None, {"model": MODEL, "prompt": prompt, "max_tokens": 1})
            assert (answer.status_code, "token 1000 does not exist" in answer.text) == (status, status == 400)
