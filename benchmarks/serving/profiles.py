"""Profiles of requests: lengths, turns, shared beginnings, images, and whether the answer must be JSON of a schema."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "score": {"type": "integer"}, "open": {"type": "boolean"}},
    "required": ["title", "score", "open"],
    "additionalProperties": False,
}


class Profile(BaseModel):
    """Lengths in tokens. A prompt's length is drawn evenly from `prompt_tokens` less and more the share `spread` of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    api: Literal["chat", "completions"]
    weight: float = Field(default=1, gt=0)
    """Its share of the conversations, relative to that of the other profiles of a mixture."""
    prompt_tokens: int = Field(ge=4, le=1_000_000)
    output_tokens: int = Field(ge=1, le=100_000)
    spread: float = Field(default=0.5, ge=0, lt=1)
    shared_prefix_tokens: int = Field(default=0, ge=0, le=1_000_000)
    """Length of the same text at the beginning of every prompt of a group, beside `prompt_tokens`."""
    prefix_groups: int = Field(default=1, ge=1, le=100_000)
    """Number of such beginnings; each conversation has one of them."""
    turns: int = Field(default=1, ge=1, le=100)
    """Turns of a conversation; each repeats all before it, and counts as a request."""
    images: int = Field(default=0, ge=0, le=16)
    """Images of 224 x 224 random pixels in each user message."""
    schema_asked: bool = False
    """The answer must be an object of ANSWER_SCHEMA, with at most `output_tokens`; else exactly so many are requested."""
    cancelled: float = Field(default=0, ge=0, le=1)
    """Share of the requests at which the client hangs up in the middle of the answer."""
    dataset: str | None = None
    """The file that prompts or lengths come from; lengths above then do not apply."""

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.api == "chat" else "/v1/completions"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="chat", api="chat", prompt_tokens=512, output_tokens=128),
        Profile(name="completions", api="completions", prompt_tokens=512, output_tokens=128),
        Profile(name="multi-turn", api="chat", prompt_tokens=128, output_tokens=128, shared_prefix_tokens=256, turns=4),
        Profile(name="long-context", api="chat", prompt_tokens=16_384, output_tokens=256, spread=0.1),
        Profile(name="json", api="chat", prompt_tokens=256, output_tokens=256, schema_asked=True),
        Profile(name="image", api="chat", prompt_tokens=64, output_tokens=128, images=1),
    )
}
