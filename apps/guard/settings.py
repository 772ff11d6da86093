"""What the `guard:` section of a Serve config may say, and what of it a replica gets. Strict: every key is checked."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from apps.common.errors import UserError
from apps.common.settings import LONGEST_REQUEST_S, MAX_HEADER_BYTES
from apps.guard.engines import Flavour

MIB = 1024 * 1024
_BYTES_PER_TOKEN = 16  # the longest tokens are runs of spaces, and escapes make a text up to six times longer
_OTHER_BYTES, _OTHER_ITEMS = 256 * 1024, 65_536  # tools, schemas, settings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _matching(pattern: str, otherwise: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(otherwise)
        return text

    return AfterValidator(check)


AbsolutePath = Annotated[str, _matching(r"/.*", "must be an absolute path on the replica's host, such as /etc/guard/keys.json")]
Route = Annotated[str, _matching(r"(/[\w.~-]+)+(/\*)?", "must be a path such as /v1/models, or /v1/models/* for all below it")]
Origin = Annotated[str, _matching(r"https?://[\w.-]+(:\d+)?", "must be an origin such as https://chat.example.com")]
Count = Annotated[int, Field(ge=1)]


class Limits(_Strict):
    """What one key may do, over all replicas together. None means no limit."""

    requests_per_minute: Count | None = None  # on all routes that need a key
    tokens_per_minute: Count | None = None
    """Prompt and output together."""
    concurrent_requests: Count | None = None
    """Running or waiting."""
    max_tokens: Count | None = None
    """Output of one choice; a request without max_tokens gets at most this much."""
    context_tokens: Count | None = None
    """Prompt and output of one choice."""

    def overridden_by(self, own: "Limits") -> "Limits":
        """These limits with those that a key's own entry sets (also to null)."""
        return self.model_copy(update=own.model_dump(exclude_unset=True))


class Grammars(_Strict):
    """What a request may have the engine compile: JSON schemas, regular expressions, choices, EBNF, structural tags, tools."""

    total_bytes: Count = 128 * 1024  # of all that one request has compiled
    nesting: Count = 64
    """Levels of a schema, of groups in a pattern or a grammar, and steps from one `$ref` to the next."""
    repetitions: Count = 10_000  # highest count in a pattern, a grammar or a schema
    properties: Count = 500  # of all objects of a schema
    alternatives: Count = 1000
    """Entries of one enum, choice or other list; alternatives of a grammar in all."""
    rules: Count = 500  # of one grammar
    pattern_chars: Count = 4096  # of one regular expression
    compile_cpu_s: float = Field(default=30, gt=0)  # longest CPU time of one compilation
    memory_mib: Count = 1024
    """Beyond what the process that compiles has for the tokenizer."""


class Bounds(_Strict):
    """What any request may be, whoever asks."""

    body_bytes: Count = 32 * MIB  # a long context and some images; a JSON body is held in memory several times over
    header_bytes: int = Field(default=MAX_HEADER_BYTES, ge=1, le=MAX_HEADER_BYTES)
    """All headers together."""
    json_depth: Count = 64  # levels of a body's JSON
    images: int = Field(default=16, ge=0)  # in one request
    remote_images: bool = False
    """Whether the server fetches images from addresses that clients name, which it can reach and they perhaps cannot."""
    choices: Count = 8  # `n`, times the prompts of a batch
    logprobs: int = Field(default=20, ge=0)  # alternatives for each token
    stop_strings: int = Field(default=16, ge=0)  # stop strings, and bad words, of one request
    grammars: Grammars = Grammars()  # what may be compiled for a request
    request_s: float = Field(default=LONGEST_REQUEST_S, gt=0, le=LONGEST_REQUEST_S)  # from its headers to the end of its answer
    body_s: float = Field(default=30, gt=0)
    """Longest wait for a whole body."""
    send_s: float = Field(default=60, gt=0)
    """Longest wait for a client to take what it is sent."""


class Queue(_Strict):
    """Requests that wait because the engine is full; keys take turns by their weights."""

    capacity: Count | None = None
    """Sequences in a replica's engine at once; none: the engine's max_num_seqs."""
    waiting: Count = 256  # requests that wait at once; more are refused
    waiting_per_key: Count = 64  # of these, how many may be one key's
    wait_s: float = Field(default=300, gt=0)  # longest wait before a request is refused


class GuardArgs(_Strict):
    """The section. Either keys are asked for, or the server is said to be open."""

    keys_files: list[AbsolutePath] = []
    """Made by scripts/keys.py; a mounted secret, for example. Watched: a change needs no restart."""
    open: bool = False
    """Nobody needs a key; bounds, routes and the rest hold all the same."""
    routes: list[Route] = ["/v1/models", "/v1/models/*", "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]
    """Open to every key. A path that is in no list is closed to all."""
    keyless_routes: list[Route] = ["/health"]  # open without a key
    admin_routes: list[Route] = ["/metrics", "/version"]  # open to keys made with --admin alone
    allowed_origins: list[Origin] = []
    """Origins of web pages that may call the API from a browser (CORS)."""
    limits: Limits = Limits()
    """Limits of a key that has none of its own."""
    bounds: Bounds = Bounds()  # what any request may be
    queue: Queue = Queue()  # who waits when the engine is full
    cache_salt: Literal["per_key", "shared"] = "per_key"
    """Whose prompts the prefix cache may find again: with `shared` the time of an answer tells what others have asked."""
    ineffective_fields: Literal["refuse", "warn"] = "refuse"
    """Fields that the engine would refuse or ignore, such as seed on TPU. `warn`: left out, as the header `warning` says."""
    audit: bool = True  # write a line of JSON for each request
    audit_file: AbsolutePath | None = None
    """Where it is written; none: beside the replica's own log, where Ray's dashboard lists it."""

    @model_validator(mode="after")
    def _keys_or_open(self) -> "GuardArgs":
        if bool(self.keys_files) == self.open:
            raise ValueError("needs either keys_files, or open: true to serve anybody; not both")
        for route in (*self.routes, *self.keyless_routes):
            if is_control(route):
                raise ValueError(f"{route} controls the engine or shows its internals: it may only be in admin_routes")
        return self


class ReplicaGuard(_Strict):
    """What one replica's guard works with."""

    args: GuardArgs
    local: bool = False
    """Open without having been said to be, as only this machine reaches it: web pages that its browser shows are kept out."""
    replicas: Count = 1
    """The limits are divided by it, as each replica counts for itself."""
    capacity: Count | None = None
    context_tokens: Count | None = None
    """The engine's max_model_len, if it is known."""
    priorities: bool = False
    """The engine computes waiting prompts by priority, and keys take turns there too."""
    flavour: Flavour = "vllm-cpu"
    tokenizer: str | None = None
    """Directory of the model's, which grammars are compiled with. None: with a vocabulary of bytes."""
    model: str | None = None
    """Directory of the model, whose config.json says how many tokens it has. None: it is not known."""

    @property
    def text_bytes(self) -> int:
        """A body without its images: more the model's context cannot hold, whatever the text."""
        room = self.context_tokens and _OTHER_BYTES + _BYTES_PER_TOKEN * self.context_tokens * self.args.bounds.choices
        return min(room or self.args.bounds.body_bytes, self.args.bounds.body_bytes)

    @property
    def json_items(self) -> int:
        """Values in a body: prompts as token ids, and what else a request says."""
        return _OTHER_ITEMS + (self.context_tokens or _OTHER_ITEMS) * self.args.bounds.choices

    @classmethod
    def parse(cls, text: str) -> "ReplicaGuard":
        """Settings from their JSON text. Raises `UserError`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise UserError(f"settings of the guard: {where}: {first['msg']}") from None


_CONTROL = re.compile(
    r"/(docs|redoc|openapi\.json|metrics|version|load|server_info|get_world_size|tokenizer_info|weight_info|collective_rpc)(/.*)?"
    r"|/(sleep|wake_up|is_sleeping|pause|resume|is_paused|abort_requests|reset_\w+|fault_tolerance)(/.*)?"
    r"|/(scale_elastic_ep|is_scaling_elastic_ep|start_profile|stop_profile|invocations|inference)(/.*)?"
    r"|/(update_weight\w*|init_weight_transfer_engine|start_\w+|finish_weight_update)(/.*)?"
    r"|/v1/(load|unload)_lora_adapter"
)


def is_control(path: str) -> bool:
    """True for vLLM's routes that steer the engine or describe the server: never without an admin key."""
    return _CONTROL.fullmatch(path) is not None


OPEN_ON_LOOPBACK = GuardArgs(open=True, audit=False, queue=Queue(waiting=4096))
"""Settings for a config without a `guard:` section, which only a server on loopback may lack: all clients are one user."""


def replica_guard(
    args: GuardArgs | None,
    engine: dict[str, Any],
    replicas: int,
    engines: int,
    *,
    model: str | None = None,
    flavour: Flavour = "vllm-cpu",
) -> ReplicaGuard:
    """A replica's part of the settings.

    Args:
        args: None where the config has no guard, which the checks let pass on loopback alone.
        engine: vLLM's arguments, for what the guard derives from them.
        model: where the engine loads it from.
        replicas: how many processes count limits, each for itself.
        engines: how many engines one such process feeds.
        flavour: of those, for what they cannot do.
    """
    local, args = args is None, args or OPEN_ON_LOOPBACK
    slots = args.queue.capacity or engine.get("max_num_seqs", 0) * engine.get("data_parallel_size", 1)  # vLLM counts per rank
    return ReplicaGuard(
        args=args,
        local=local,
        replicas=replicas,
        capacity=slots * engines if slots else None,
        context_tokens=engine.get("max_model_len"),
        priorities=bool(args.keys_files) and engine.get("scheduling_policy") == "priority",
        flavour=flavour,
        tokenizer=engine.get("tokenizer") or model,
        model=model,
    )
