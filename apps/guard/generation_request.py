"""A request's JSON body: what the guard has to know of it, whether it is within bounds, and the few edits that may be made.

Edits go into the bytes as they came, so everything else stays what the client sent. Values are taken only in the types that
OpenAI's API has: a server that also takes "8" for a number must not be asked more that way.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from apps.guard.answers import Refusal
from apps.guard.settings import Bounds

_IMAGE_TOKENS = 280  # Gemma's image at its usual resolution; corrected by the server's own count
_BYTES_PER_TOKEN = 4  # of English; corrected likewise
_TEMPLATE_BYTES = 64  # more than a chat template writes around a message
COMPLETION_DEFAULT_TOKENS = 16  # vLLM's, of /v1/completions without max_tokens
_COUNTS = {"max_tokens": 0, "max_completion_tokens": 0, "min_tokens": 0, "n": 1, "best_of": 1}
"""Fields, and the least that they may be."""
_MOST = 2**31 - 1  # more no engine computes, and larger numbers fail in places where nobody expects them
_LOGPROBS = frozenset(("logprobs", "top_logprobs", "prompt_logprobs"))
_LONGEST_PATTERN = 256  # of repetition_detection, tokens: it is compared with the answer's end at each step
_CLOSED = frozenset(("prompt_embeds", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "priority", "use_beam_search"))
"""Fields that reach past one request: tensors to load, other engines, others' places in the engine's queue, unbounded work."""
_REMOTE = "images must be sent as data: URLs; this server fetches none"


class GenerationRequest(NamedTuple):
    """A body within bounds. `fields` is the parsed JSON, `raw` what came."""

    raw: bytes
    fields: dict[str, Any]
    chat: bool
    model: str | None
    stream: bool
    max_tokens: int | None
    choices: int
    """Answers that are computed: n for each prompt."""
    prompt_tokens: int
    """Of all prompts: an estimate, which the server's count corrects; exact for token ids."""
    text_bytes: int
    """The body without its images."""
    most_prompt_tokens: int | None
    """Of the longest prompt, a bound that is certain: each token is at least one byte. None where images make it uncertain."""
    generates: bool = True

    @classmethod
    def other(cls, raw: bytes, fields: dict[str, Any], *, generates: bool) -> "GenerationRequest":
        """A request of a route that the guard has no rules for beyond those of every body. It waits its turn and is charged."""
        tokens = max(1, len(raw) // _BYTES_PER_TOKEN)
        return cls(raw, fields, False, None, False, None if generates else 0, 1, tokens, len(raw), None, generates)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the last chunk of a stream that has the token counts."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def parse(raw: bytes, fields: dict[str, Any], bounds: Bounds, *, chat: bool) -> GenerationRequest:
    """The question in a body of /v1/chat/completions or /v1/completions. Raises `Refusal` 400."""
    model, stream = fields.get("model"), fields.get("stream")
    if model is not None and not isinstance(model, str):
        raise _bad("model must be a string.", "model")
    if stream is not None and not isinstance(stream, bool):
        raise _bad("stream must be true or false.", "stream")
    for name in ("stream_options", "structured_outputs"):  # at the second vLLM fails where it is a list
        if name in fields and not isinstance(fields[name], dict | None):
            raise _bad(f"{name} must be an object.", name)
    _check_numbers(fields, bounds)
    _check_lists(fields, bounds)
    prompts = 1 if chat else _prompts(fields.get("prompt"))
    choices = max(fields.get("n") or 1, fields.get("best_of") or 1) * prompts
    if choices > bounds.choices:
        raise _bad(f"{choices} choices were asked for (n for each prompt), and at most {bounds.choices} are given.", "n")
    images, image_bytes = _images(fields.get("messages"), bounds) if chat else (0, 0)
    total, longest = _prompt_tokens(fields, len(raw) - image_bytes, chat=chat)
    asked = fields.get("max_completion_tokens") if chat else None
    return GenerationRequest(
        raw,
        fields,
        chat,
        model,
        bool(stream),
        asked if asked is not None else fields.get("max_tokens"),
        choices,
        max(1, total) + images * _IMAGE_TOKENS,
        len(raw) - image_bytes,
        None if images else longest,
    )


def check_tokenized(fields: dict[str, Any], bounds: Bounds) -> None:
    """Check what /tokenize and the like read: images, which they fetch, and token ids. Raises `Refusal` 400."""
    for name in ("messages", "input"):
        _images(fields.get(name), bounds)
    ids = fields.get("tokens")
    if isinstance(ids, list) and not all(type(one) is int and 0 <= one <= _MOST for one in ids):
        raise _bad(f"tokens must be integers from 0 to {_MOST}.", "tokens")


def edited(request: GenerationRequest, max_tokens: int | None, cache_salt: str | None) -> bytes:
    """The body to forward: a stream is made to end with its token counts; max_tokens and cache_salt are set where given."""
    fields = request.fields
    needs_usage = request.stream and not request.wants_usage
    added: dict[str, Any] = {}
    if cache_salt is not None:
        added["cache_salt"] = cache_salt
    if max_tokens is not None:
        added["max_tokens"] = max_tokens
    if needs_usage:
        added["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    if added.keys() & fields.keys():  # to be replaced, not added: the body has to be written anew
        return json.dumps({**fields, **added}).encode()
    if not added:
        return request.raw
    head, _, rest = request.raw.partition(b"{")
    return head + json.dumps(added).encode()[:-1] + (b"," if fields else b"") + rest


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "invalid_value", param=param)


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:  # bool is an int to Python
        raise _bad(f"{name} must be an integer.", name)
    return value


def _check_numbers(fields: dict[str, Any], bounds: Bounds) -> None:
    for name in fields.keys() & _COUNTS.keys():
        value = _number(fields, name)
        if value is not None and not _COUNTS[name] <= value <= _MOST:
            raise _bad(f"{name} is {value}, and must be at least {_COUNTS[name]} and at most {_MOST}.", name)
    for name in fields.keys() & _LOGPROBS:
        value = None if isinstance(fields[name], bool) else _number(fields, name)
        if value is not None and not 0 <= value <= bounds.logprobs:  # -1 would be the whole vocabulary
            raise _bad(f"{name} must be between 0 and {bounds.logprobs}.", name)


def _check_lists(fields: dict[str, Any], bounds: Bounds) -> None:
    for name in ("stop", "bad_words"):
        if name in fields:
            _check_strings(fields[name], name, bounds.stop_strings)
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        if isinstance(value := fields.get(name), list | dict) and len(value) > bounds.token_ids:
            raise _bad(f"{name} has {len(value)} entries, and may have {bounds.token_ids}.", name)
    if isinstance(ids := fields.get("logprob_token_ids"), list) and len(ids) > bounds.logprobs:
        raise _bad(f"logprob_token_ids has {len(ids)} entries, and may have {bounds.logprobs}.", "logprob_token_ids")
    detection = fields.get("repetition_detection")
    for name, value in detection.items() if isinstance(detection, dict) else ():
        if not isinstance(value, int) or not 0 <= value <= _LONGEST_PATTERN:
            raise _bad(f"repetition_detection.{name[:40]} must be an integer from 0 to {_LONGEST_PATTERN}.", name[:40])
    for name in fields.keys() & _CLOSED:
        if fields[name]:
            raise _bad(f"{name} is not open to clients of this server.", name)


def _check_strings(value: Any, name: str, most: int) -> None:
    strings = [value] if isinstance(value, str) else value or []
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise _bad(f"{name} must be a string or a list of strings.", name)
    if len(strings) > most or any(len(one) > 1024 for one in strings):
        raise _bad(f"{name} may have at most {most} strings of at most 1024 characters.", name)


def _prompts(prompt: Any) -> int:
    """Prompts in a /v1/completions body: a string or a list of token ids is one, a list of those is several."""
    is_batch = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if is_batch else 1


def _prompt_tokens(fields: dict[str, Any], size: int, *, chat: bool) -> tuple[int, int]:
    """(tokens of all prompts, most of the longest): exact for token ids, by the bytes of the body else."""
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if isinstance(prompt, list) and prompt and type(prompt[0]) is int:
        return len(prompt), len(prompt)
    if isinstance(prompt, list) and all(isinstance(one, list) for one in prompt):
        lengths = [len(one) for one in prompt]
        return sum(lengths), max(lengths, default=0)
    if chat and isinstance(messages, list):
        size += _TEMPLATE_BYTES * (1 + len(messages))  # what a chat template writes around them
    return size // _BYTES_PER_TOKEN, size


def _images(messages: Any, bounds: Bounds) -> tuple[int, int]:
    """(images in a chat, the bytes that they take)."""
    urls = [url for part in _parts(messages) for url in _urls(part)]
    if len(urls) > bounds.images:
        raise _bad(f"{len(urls)} images or other media were sent, and at most {bounds.images} are taken.", "messages")
    if not bounds.remote_images and not all(url.startswith("data:") for url in urls):
        raise _bad(_REMOTE, "messages")
    return len(urls), sum(map(len, urls))


def _parts(messages: Any) -> Iterator[dict[str, Any]]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _urls(part: dict[str, Any]) -> Iterator[str]:
    """What a content part refers to, in any of the forms that vLLM takes: {"image_url": {"url": ...}}, {"image_url": "..."}."""
    for name, value in part.items():
        if name.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            yield url if isinstance(url, str) else ""
        elif name in ("image", "input_image", "input_audio", "audio", "video", "image_pil", "image_embeds", "audio_embeds"):
            yield "data:"
