"""The result of a load test as it is kept in a file: what was set, what was counted, and the figures that follow from it.

Times are milliseconds; None means not measured. Definitions: docs/benchmarks.md.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apps.common.errors import UserError
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import Profile


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Slo(_Strict):
    """Limits that a request must keep to count for goodput. None: no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @property
    def asked(self) -> bool:
        return any(limit is not None for limit in (self.ttft_ms, self.tpot_ms, self.e2e_ms))


class Load(_Strict):
    """How requests were sent: `rate` per second, or so many `clients`, each asking again once it has its answer."""

    arrivals: str
    """A pattern, `trace`, or `closed` for clients."""
    rate: float | None = None
    clients: int | None = None
    duration_s: float | None = None
    requests: int | None = None
    timeout_s: float

    @property
    def label(self) -> str:
        return f"{self.clients} clients" if self.clients else f"{self.rate:g} requests/s" if self.rate else self.arrivals


class Window(_Strict):
    """A piece of the run's time, by when requests were meant to be sent; tokens by when they came."""

    requests: int = 0
    errors: int = 0
    good: int = 0
    output_tokens: float = 0
    ttft: Histogram = Field(default_factory=Histogram)
    tpot: Histogram = Field(default_factory=Histogram)
    e2e: Histogram = Field(default_factory=Histogram)

    def merge(self, other: "Window") -> None:
        for name in ("requests", "errors", "good", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("ttft", "tpot", "e2e"):
            getattr(self, name).merge(getattr(other, name))


class Checks(_Strict):
    """What the honesty gate looks at."""

    repeated_prompts: int = 0
    without_usage: int = 0
    wrong_counts: int = 0
    wrong_count_example: str | None = None
    declared_shared_tokens: int = 0
    """Of all prompts, what an earlier request had had as its beginning."""
    cached_tokens: int | None = None
    """What the server found in its cache, by its usage or its metrics."""
    cached_by: str | None = None
    sampled_tokens: int = 0
    """By usage, of some answers whose text was counted anew..."""
    sampled_text_tokens: int = 0
    """...and what the count of their text was."""


class ClientState(_Strict):
    """Whether this process kept up."""

    cpu_share: float
    """Of one core."""
    lag: Histogram
    """How late timers of its event loop were."""
    late: Histogram
    """How long after their intended time open-loop requests were taken up."""
    connections: int
    rss_mb: list[float]
    """Memory of the process in each tenth of the run."""


class Run(_Strict):
    """One load."""

    load: Load
    started_at: str
    elapsed_s: float
    """From the first intended time to the end of the last answer."""
    sent: int
    completed: int
    good: int | None
    """Requests within the SLO; None without one."""
    errors: Counter[str]
    error_examples: dict[str, str]
    prompt_tokens: int
    """Of completed requests, by the server's usage, as are..."""
    output_tokens: int
    least_prompt_tokens: int | None
    most_in_flight: int
    ttft: Histogram
    tpot: Histogram
    itl: Histogram
    e2e: Histogram
    window_s: float
    windows: list[Window]
    checks: Checks
    client: ClientState
    figures: dict[str, float | None] = Field(default_factory=dict)


class Setting(_Strict):
    """All that was set, here and at the server. None: not known."""

    url: str
    model: str
    profile: Profile
    seed: int
    slo: Slo
    tokenizer: str
    warmup_requests: int
    versions: dict[str, str]
    client_cores: int
    server_version: str | None = None
    model_card: dict[str, Any] | None = None
    serve_config_digest: str | None = None
    llm_config: dict[str, Any] | None = None
    """Of the served model, from the Serve config: engine arguments, accelerator, replicas."""


class Result(_Strict):
    """One file: a setting and the runs with it."""

    form: str = "serving-result-1"
    setting: Setting
    runs: list[Run]
    best_rate: float | None = None
    """Of a sweep: the highest rate within the SLO."""


def write(result: Result, path: Path) -> None:
    path.write_text(result.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Result:
    """Raises `UserError` for a file that is missing or no result."""
    try:
        return Result.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: no result of benchmarks.serving: {where}: {first['msg']}") from error
