"""Bodies: what is within bounds, and that an edit leaves every other byte as the client sent it."""

import json
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.guard import generation_request
from apps.guard.answers import Refusal
from apps.guard.bodies import parse_json
from apps.guard.generation_request import GenerationRequest
from apps.guard.settings import Bounds

BOUNDS = Bounds()
ITEMS = 10_000
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": "m", "prompt": "hi"}


def asked(body: dict[str, Any] | str | bytes, *, chat: bool | None = None, bounds: Bounds = BOUNDS) -> GenerationRequest:
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    fields = parse_json(raw, ITEMS, bounds.json_depth)
    return generation_request.parse(raw, fields, bounds, chat="messages" in fields if chat is None else chat)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=8), JSON, max_size=5),
    st.booleans(),
    st.sampled_from([None, 7]),
    st.sampled_from([None, 12]),
    st.sampled_from(["", "  \n\t"]),
)
def test_an_edit_only_adds_what_it_says(
    extra: dict[str, Any], stream: bool, max_tokens: int | None, priority: int | None, blank: str
) -> None:
    body = {**extra, "messages": [{"role": "user", "content": 'é"{\\'}], "stream": stream}
    for name in (
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "best_of",
        "model",
        "stop",
        "min_tokens",
        "priority",
    ):
        body.pop(name, None)
    raw = (blank + json.dumps(body, indent=1, ensure_ascii=False)).encode("utf-8", "surrogatepass")
    try:
        request = asked(raw, chat=True)
    except Refusal:
        return  # half a character
    sent = generation_request.edited(request, max_tokens, priority)
    added: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    added |= {"max_tokens": max_tokens} if max_tokens else {}
    added |= {"priority": priority} if priority else {}
    assert json.loads(sent) == {**body, **added}
    assert (sent == raw) if not added else sent.endswith(raw.lstrip()[1:])


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": True}, {"include_usage": True}),
        ({"continuous_usage_stats": True}, {"continuous_usage_stats": True, "include_usage": True}),
    ],
)
def test_a_stream_is_made_to_end_with_its_counts(options: Any, sent: Any) -> None:
    body = json.loads(generation_request.edited(asked({**CHAT, "stream": True, "stream_options": options}), None))
    assert body == {**CHAT, "stream": True, "stream_options": sent}


def test_what_needs_no_edit_is_the_same_bytes() -> None:
    raw = b'{"model": "m",  "prompt":"hi", "prompt": "ho", "temperature": 1e0}'
    assert generation_request.edited(asked(raw), None) is raw


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "no object": ("[1]", "must be a JSON object"),
    "no UTF-8": (b'{"prompt": "\xff"}', "UTF-8"),
    "UTF-16": (json.dumps(PROMPT).encode("utf-16"), "UTF-8"),
    "half a character": (r'{"prompt": "\ud800"}', "not valid JSON"),
    "too deep for the parser": ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper than 64"),
    "32 MiB of brackets": (b'{"prompt": "hi", "x": [' + b"[]," * 11_000_000 + b"1]}", "more than 10000 values"),
    "many names": ("{" + '"":0,' * 30_000 + '"":0}', "more than 10000 values"),
    "too deep": ({**PROMPT, "a": json.loads("[" * 70 + "]" * 70)}, "nested deeper than 64"),
    "no number": ('{"prompt": "hi", "temperature": NaN}', "not valid JSON"),
    "an infinite number": ('{"prompt": "hi", "logit_bias": {"1": -Infinity}}', "not valid JSON"),
    "a number beyond all floats": ('{"prompt": "hi", "temperature": 1e999}', "1e999 is out of range"),
    "a number beyond all integers": ({**PROMPT, "seed": 10**400}, "is out of range"),
    "more tokens than anybody computes": ({**PROMPT, "max_tokens": 2**31}, "between 0 and 2147483647"),
    "a float for an integer": ({**PROMPT, "max_tokens": 5.0}, "max_tokens must be an integer"),
    "an exponent for an integer": ('{"prompt": "hi", "n": 1e3}', "n must be an integer"),
    "the last of two": ('{"prompt": "hi", "n": 1, "n": 99}', "99 choices"),
    "a field by its escaped name": (r'{"prompt": "hi", "\u006e": 99}', "99 choices"),
    "an endless number": ('{"prompt": "hi", "max_tokens": ' + "9" * 5000 + "}", "out of range"),
    "a number beyond all floats, deep": ('{"prompt": "hi", "logit_bias": {"5": 1e999}}', "out of range"),
    "a number after escaped quotes": (r'{"prompt": "a\\\"b\\", "temperature": 1e999}', "1e999 is out of range"),
    "an endless number, deep": ('{"prompt": "hi", "x": {"5": [' + "9" * 4200 + "]}}", "out of range"),
    "model": ({**PROMPT, "model": 5}, "model must be a string"),
    "stream": ({**PROMPT, "stream": "yes"}, "stream must be true or false"),
    "stream_options": ({**PROMPT, "stream_options": [1]}, "stream_options must be an object"),
    "a number in quotes": ({**PROMPT, "n": "100"}, "n must be an integer"),
    "a truth for a number": ({**PROMPT, "max_tokens": True}, "max_tokens must be an integer"),
    "n": ({**PROMPT, "n": 9}, "9 choices were requested"),
    "n is negative": ({**PROMPT, "n": -1}, "n must be an integer between 1 and 2147483647"),
    "n of a batch": ({**PROMPT, "prompt": ["a", "b", "c"], "n": 3}, "9 choices"),
    "a batch of token ids": ({**PROMPT, "prompt": [[1], [2]] * 5}, "10 choices"),
    "max_tokens": ({**PROMPT, "max_tokens": -5}, "max_tokens must be an integer between 0"),
    "logprobs": ({**PROMPT, "logprobs": 21}, "between 0 and 20"),
    "the whole vocabulary": ({**PROMPT, "prompt_logprobs": -1}, "between 0 and 20"),
    "top_logprobs": ({**CHAT, "logprobs": True, "top_logprobs": 10**6}, "between 0 and 20"),
    "stop": ({**PROMPT, "stop": ["x"] * 17}, "at most 16 strings"),
    "a long stop": ({**PROMPT, "stop": "x" * 2000}, "at most 1024 characters"),
    "bad words": ({**PROMPT, "bad_words": ["x"] * 17}, "bad_words must be a string or a list of strings: at most 16"),
    "a stop that is none": ({**PROMPT, "stop": [1]}, "stop must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_out_of_bounds_is_a_400_that_says_why(case: str) -> None:
    body, words = BAD[case]
    with pytest.raises(Refusal) as caught:
        asked(body)
    assert caught.value.status == 400
    assert words in caught.value.message


def test_digits_in_a_text_are_no_numbers() -> None:
    text = r'1e999 "' + "9" * 400
    assert asked({"model": "m", "prompt": text}).fields["prompt"] == text


def test_a_long_text_is_looked_at_as_fast_as_it_is_parsed() -> None:
    raw = json.dumps({"model": "m", "prompt": "word " * 100_000}).encode()

    def seconds(parse: Callable[[], Any]) -> float:
        return min(timeit.repeat(parse, number=1, repeat=20))

    assert seconds(lambda: parse_json(raw, ITEMS, 64)) < 10 * seconds(lambda: json.loads(raw))


def chat_with(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/computeMetadata/v1/"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"image_url": {"url": "file:///etc/passwd"}},
        {"type": "video_url", "video_url": {"url": "http://localhost:8265/"}},
        {"type": "audio_url", "audio_url": {"url": "gs://bucket/x"}},
        {"type": "image_url", "image_url": {"url": 5}},
    ],
)
def test_the_server_fetches_nothing_that_a_client_names(part: Any) -> None:
    with pytest.raises(Refusal) as caught:
        asked(chat_with(part))
    assert "data: URLs" in caught.value.message
    if isinstance(part.get("image_url", {}), dict) and part.get("image_url", {}).get("url", "").__class__ is str:
        assert asked(chat_with(part), bounds=Bounds(remote_images=True))


def test_images_are_counted_and_their_bytes_are_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
    request = asked(chat_with(image, {"type": "text", "text": "what is this?"}))
    assert request.prompt_tokens < 500
    assert request.max_prompt_tokens is None
    with pytest.raises(Refusal) as caught:
        asked(chat_with(*[image] * 17))
    assert "17 images" in caught.value.message


def test_a_prompt_of_token_ids_is_counted_exactly() -> None:
    request = asked({**PROMPT, "prompt": list(range(1000))})
    assert (request.prompt_tokens, request.max_prompt_tokens) == (1000, 1000)
    assert request.choices == 1
