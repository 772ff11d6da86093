"""Requests that nobody means well with, drawn by hypothesis: odd bodies, headers, paths, methods; token ids; large bodies."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

ODD_NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 1e308, -1e308, 0.1, 1e-320, float("inf"), float("nan")]
)
ODD_TEXTS = st.sampled_from(
    [
        "",
        "\x00",
        "\ud800",
        "\U0001f600" * 50,
        "x" * 5000,
        "../../etc/passwd",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "<|turn>",
        "a\r\nb",
        "%s%n",
    ]
)
SCALARS = st.none() | st.booleans() | ODD_NUMBERS | ODD_TEXTS | st.integers() | st.text(max_size=30)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3), max_leaves=6
)
FIELDS = [
    *("messages", "prompt", "model", "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "stream", "stop"),
    *(
        "stream_options",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "echo",
        "suffix",
    ),
    *("user", "logit_bias", "presence_penalty", "frequency_penalty", "response_format", "structured_outputs", "tools"),
    *("tool_choice", "parallel_tool_calls", "chat_template", "chat_template_kwargs", "ignore_eos", "add_generation_prompt"),
    *("continue_final_message", "truncate_prompt_tokens", "repetition_penalty", "length_penalty", "use_beam_search"),
    *("bad_words", "allowed_token_ids", "stop_token_ids", "skip_special_tokens", "priority", "request_id", "cache_salt"),
    *("kv_transfer_params", "mm_processor_kwargs", "return_token_ids", "vllm_xargs", "documents", "reasoning_effort"),
    *("include_reasoning", "prompt_embeds"),
]
PATHS = st.sampled_from(
    [
        *("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/models", "/v1/models/x", "/health"),
        *(
            "/",
            "//",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/sleep",
            "/collective_rpc",
            "/v1/responses",
            "/server_info",
            "/-/routes",
        ),
        *(
            "/v1/models/..%2f..%2fmetrics",
            "/v1/../metrics",
            "/v1/models/%00",
            "/v1/models/%ff",
            "/v1/completions/",
            "/V1/MODELS",
        ),
    ]
)
GENERATING = ("/v1/chat/completions", "/v1/completions")
LEAKS = re.compile(
    r"Traceback|site-packages|File \"|\.py\b|/(?:root|home|work|usr|opt|tmp)/|object at 0x|rts_[0-9a-f]{12}_|Errno|ray::"
)
_OWN_IMAGE = re.compile(r"/\S*/gradio/[0-9a-f]{32}\.\w+")
"""The name of one that was uploaded, which is no file."""


def leak_in(text: str) -> str | None:
    """What an answer shows of the server's inside, with what is around it."""
    bare = _OWN_IMAGE.sub("", text)
    leak = LEAKS.search(bare)
    return leak and bare[max(0, leak.start() - 300) : leak.end() + 100]


class Repeated(NamedTuple):
    """A body that is large only while it is sent."""

    head: bytes
    unit: bytes
    times: int
    tail: bytes

    def __bytes__(self) -> bytes:
        return self.head + self.unit * self.times + self.tail


@dataclass(frozen=True)
class Hostile:
    """One request. `with_key`: whether it is sent with a key that is right (the chat: a session), so that more is inspected."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | Repeated
    with_key: bool
    in_chunks: bool = False


def _base(path: str, model: str) -> dict[str, Any]:
    if path == "/v1/chat/completions":
        return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    if path == "/detokenize":
        return {"model": model, "tokens": [1, 2]}
    return {"model": model, "prompt": "hi", **({"max_tokens": 2} if path == "/v1/completions" else {})}


@st.composite
def bodies(draw: st.DrawFn, path: str, model: str) -> bytes:
    body = _base(path, model) | draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
    if draw(st.integers(0, 3)) == 3:
        body["messages"] = draw(
            st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), VALUES), max_size=3)
        )
    if draw(st.integers(0, 3)) == 3:
        del body[draw(st.sampled_from(sorted(body)))]
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return raw[: draw(st.integers(0, len(raw)))]
    if kind == 1:
        at = draw(st.integers(0, len(raw)))
        return raw[:at] + draw(st.binary(max_size=20)) + raw[at:]
    if kind == 2:
        return draw(st.binary(max_size=200))
    if kind == 3:
        return b'{"prompt":' * 3000 + b"1" + b"}" * 3000
    if kind == 4:
        return raw.decode().encode("utf-16")
    return raw


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(b"x-request-id", b"content-type", b"accept", b"origin", b"cookie", b"x-forwarded-for", b"accept-encoding"),
                *(b"x-data-parallel-rank", b"x-request-timeout-seconds", b"serve_multiplexed_model_id", b"x-session-id", b"te"),
            ]
        ),
        st.sampled_from(
            [b"", b"application/json", b"text/plain", b"-1", b"nan", b"\xff\xfe", b"a" * 300, b"multipart/form-data"]
        ),
    ),
    max_size=3,
)
KEYS = st.sampled_from(
    [b"", b"Bearer", b"Bearer  x", b"Basic x", b"bearer rts_0_0", b"Bearer \xff", b"Bearer rts_000000000000_" + b"0" * 48]
)


@st.composite
def requests(draw: st.DrawFn, model: str) -> Hostile:
    likely = draw(st.sampled_from([True, True, False]))
    path = draw(st.sampled_from(GENERATING)) if likely else draw(PATHS)
    method = "POST" if likely else draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]))
    headers = draw(HEADERS)
    if likely:
        headers = [*headers, (b"content-type", b"application/json")]
    with_key = draw(st.sampled_from([True] * 20 + [False]))
    if not with_key:
        headers = [*headers, (b"authorization", draw(KEYS))]
    body = draw(bodies(path, model)) if method in ("POST", "PUT", "PATCH") else b""
    return Hostile(method, path, headers, body, with_key)


IDS: st.SearchStrategy[Any] = st.sampled_from(
    [
        0,
        1,
        2,
        5,
        262_143,
        262_144,
        2**31 - 1,
        2**31,
        2**40,
        2**63 - 1,
        2**63,
        2**64,
        -1,
        -(2**63),
        1.5,
        True,
        None,
        "1",
        [],
        {},
        [1],
    ]
)
_LONG = st.builds(lambda id, count: [id] * count, IDS, st.sampled_from([0, 1, 100, 511, 2047, 2048, 2049, 10_000, 100_000]))
_ID_PROMPTS = st.lists(IDS, max_size=4) | _LONG | st.lists(st.lists(IDS, max_size=3) | _LONG, max_size=3)
_ID_FIELDS = st.sampled_from(
    ["prompt", "prompt", "tokens", "stop_token_ids", "allowed_token_ids", "logprob_token_ids", "prompt_token_ids", "logit_bias"]
)
_MORE: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {},
        {"stream": True},
        {"n": 2},
        {"echo": True},
        {"logprobs": 1},
        {"truncate_prompt_tokens": -1},
        {"prompt_logprobs": 0},
    ]
)
JSON = [(b"content-type", b"application/json")]


@st.composite
def of_ids(draw: st.DrawFn, model: str) -> Hostile:
    """Prompts and other lists of token ids: huge, negative, nested, not numbers, longer than the context."""
    path = draw(st.sampled_from(["/v1/completions", "/v1/completions", "/detokenize", "/tokenize", "/v1/chat/completions"]))
    field, ids = draw(_ID_FIELDS), draw(_ID_PROMPTS)
    value = {str(id): 1 for id in ids[:300]} if field == "logit_bias" else ids
    body = _base(path, model) | draw(_MORE) | {"tokens" if path == "/detokenize" else field: value}
    return Hostile("POST", path, JSON, json.dumps(body).encode(), True)


_UNITS = {
    "brackets": (b'"x":[', b"[],", b"1]"),
    "quotes": (b'"x":[', b'"",', b"1]"),
    "objects": (b'"user":[', b'{"a":1},', b"1]"),
    "numbers": (b'"prompt":[', b"1,", b"1]"),
    "depth": (b'"prompt":', b"[", b""),
    "text": (b'"prompt":"', b"a", b'"'),
    "escapes": (b'"prompt":"', b"\\u0061", b'"'),
    "messages": (b'"messages":[', b'{"role":"user","content":"a"},', b'{"role":"user","content":"a"}]'),
    "image": (
        b'"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,',
        b"AAAA",
        b'"}}]}]',
    ),
    "digits": (b'"seed":', b"9", b""),
    "blanks": (b"", b" ", b'"prompt":"a"'),
    "fields": (b"", b'"prompt":"a",', b'"prompt":"a"'),
    "no JSON": (b"", b"\x00", b""),
}


@st.composite
def large(draw: st.DrawFn, model: str) -> Hostile:
    """Bodies below, at and beyond what a context of 2,048 tokens can hold, and what any body may have."""
    head, unit, tail = _UNITS[draw(st.sampled_from(sorted(_UNITS)))]
    size = draw(st.sampled_from([60_000, 250_000, 294_000, 295_500, 1 << 20, 4 << 20, 33_000_000, (32 << 20) + 1]))
    body = Repeated(b'{"model":"' + model.encode() + b'","max_tokens":1,' + head, unit, size // len(unit), tail + b"}")
    path = draw(st.sampled_from([*GENERATING, "/tokenize", "/detokenize", "/v1/models"]))
    kind = draw(st.sampled_from([b"application/json"] * 4 + [b"multipart/form-data; boundary=x", b"text/plain"]))
    return Hostile("POST", path, [(b"content-type", kind)], body, draw(st.integers(0, 9)) > 0, draw(st.booleans()))


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """The same each time: whoever broke nothing sees no failure. One by one, as hypothesis repeats itself within a list."""
    examples: list[T] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(request: T) -> None:
        examples.append(request)

    draw()
    return examples
