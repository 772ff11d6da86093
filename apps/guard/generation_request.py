"""A request's JSON body: what the guard has to know of it, whether it is within bounds, and the few edits that may be made.

Edits go into the bytes as they came, so everything else stays what the client sent. What one field may be says `fields`.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from apps.guard.answers import bad_value
from apps.guard.field_rules import check_fields
from apps.guard.fields import CHAT, COMPLETIONS, MEDIA, TABLES
from apps.guard.settings import Bounds

_IMAGE_TOKENS = 280  # Gemma's image at its usual resolution; corrected by the server's own count
_BYTES_PER_TOKEN = 4  # of English; corrected likewise
_TEMPLATE_BYTES = 64  # more than a chat template writes around a message
COMPLETION_DEFAULT_TOKENS = 16  # vLLM's, of /v1/completions without max_tokens
_REMOTE = "images must be sent as data: URLs; this server does not fetch images"


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
    """Tokens of all prompts: an estimate, which the server's count corrects; exact for token ids."""
    text_bytes: int
    """The body without its images."""
    max_prompt_tokens: int | None
    """Upper bound of the longest prompt: each token is at least one byte. None where images make it uncertain."""
    generates: bool = True
    cache_salt: str | None = None
    """What parts the prefix cache; None: the cache is everybody's."""

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
    """The request in a body of /v1/chat/completions or /v1/completions. Raises `Refusal` 400."""
    check_fields(fields, CHAT if chat else COMPLETIONS, bounds)
    prompts = 1 if chat else _prompts(fields.get("prompt"))
    choices = (fields.get("n") or 1) * prompts
    if choices > bounds.choices:
        raise bad_value(f"{choices} choices were requested (n for each prompt); at most {bounds.choices} are allowed.", "n")
    images, image_bytes = _images(fields.get("messages"), bounds) if chat else (0, 0)
    total, longest = _prompt_tokens(fields, len(raw) - image_bytes, chat=chat)
    asked = fields.get("max_completion_tokens") if chat else None
    return GenerationRequest(
        raw,
        fields,
        chat,
        fields.get("model"),
        bool(fields.get("stream")),
        asked if asked is not None else fields.get("max_tokens"),
        choices,
        max(1, total) + images * _IMAGE_TOKENS,
        len(raw) - image_bytes,
        None if images else longest,
    )


def without(request: GenerationRequest, names: list[str]) -> GenerationRequest:
    """The request as if the client had not sent these fields, none of which says how much is computed."""
    fields = {name: value for name, value in request.fields.items() if name not in names}
    return request._replace(raw=json.dumps(fields).encode(), fields=fields)


def check_other(path: str, fields: dict[str, Any], bounds: Bounds) -> None:
    """Check a body of a route that generates nothing, such as /tokenize, which fetches images all the same.

    Raises:
        Refusal: 400, a field or an image is not allowed.
    """
    if table := TABLES.get(path):
        check_fields(fields, table, bounds)
    for name in ("messages", "input"):
        _images(fields.get(name), bounds)


def edited(request: GenerationRequest, max_tokens: int | None, priority: int | None = None) -> bytes:
    """The body to forward: a stream is made to end with its token counts; what is given, and cache_salt, is set."""
    fields = request.fields
    set_here = {"cache_salt": request.cache_salt, "priority": priority, "max_tokens": max_tokens}
    added: dict[str, Any] = {name: value for name, value in set_here.items() if value is not None}
    if request.stream and not request.wants_usage:
        added["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    if added.keys() & fields.keys():  # to be replaced, not added: the body has to be written anew
        return json.dumps({**fields, **added}).encode()
    if not added:
        return request.raw
    head, _, rest = request.raw.partition(b"{")
    return head + json.dumps(added).encode()[:-1] + (b"," if fields else b"") + rest


def _prompts(prompt: Any) -> int:
    """Prompts in a /v1/completions body: a string or a list of token ids is one, a list of those is several."""
    is_batch = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if is_batch else 1


def _prompt_tokens(fields: dict[str, Any], size: int, *, chat: bool) -> tuple[int, int]:
    """(tokens of all prompts, upper bound of the longest): exact for token ids, by the bytes of the body else."""
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if isinstance(prompt, list) and prompt and type(prompt[0]) is int:
        return len(prompt), len(prompt)
    if isinstance(prompt, list) and all(isinstance(ids, list) for ids in prompt):
        lengths = [len(ids) for ids in prompt]
        return sum(lengths), max(lengths, default=0)
    if chat and isinstance(messages, list):
        size += _TEMPLATE_BYTES * (1 + len(messages))  # what a chat template writes around them
    return size // _BYTES_PER_TOKEN, size


def _images(messages: Any, bounds: Bounds) -> tuple[int, int]:
    """(images in a chat, the bytes that they take)."""
    urls = [url for part in _parts(messages) for url in _urls(part)]
    if len(urls) > bounds.images:
        raise bad_value(f"{len(urls)} images or other media were sent; at most {bounds.images} are allowed.", "messages")
    if not bounds.remote_images and not all(url.startswith("data:") for url in urls):
        raise bad_value(_REMOTE, "messages")
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
        elif name in MEDIA:
            yield "data:"
