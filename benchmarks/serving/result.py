"""The result of a load test as it is kept in a file: what was set, what was counted, and the figures that follow from it.

Times are milliseconds; None means not measured. docs/benchmarks.md has the definitions in words, `figures` has them in code.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apps.common.errors import UserError
from benchmarks.serving.histogram import Histogram
from benchmarks.serving.profiles import Profile

TIMES, STATISTICS = ("ttft", "tpot", "itl", "e2e"), ("mean", "p50", "p90", "p99")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Slo(_Strict):
    """Limits that a request must keep to count for goodput. None: no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @property
    def is_set(self) -> bool:
        return any(limit is not None for limit in (self.ttft_ms, self.tpot_ms, self.e2e_ms))


class Load(_Strict):
    """How requests were sent: `rate` per second, or so many `clients`, each with one request at a time."""

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
    """Counts that the validation of a result inspects."""

    repeated_prompts: int = 0
    without_usage: int = 0
    wrong_counts: int = 0
    wrong_count_example: str | None = None
    declared_shared_tokens: int = 0
    """Prompt tokens that an earlier request had at its beginning, too."""
    cached_tokens: int | None = None
    """Prompt tokens that the server found in its cache, by its usage or its metrics."""
    cached_by: str | None = None
    sampled_tokens: int = 0
    """Tokens by usage of some responses whose text was counted anew..."""
    sampled_text_tokens: int = 0
    """...and what the count of their text was."""


class ClientState(_Strict):
    """Whether this process kept up."""

    cpu_share: float
    """CPU time as a share of one core."""
    lag: Histogram
    """How late timers of its event loop were."""
    late: Histogram
    """How long after their intended time open-loop requests were begun."""
    connections: int
    rss_mb: list[float]
    """Memory of the process in each tenth of the run."""


class Counts(_Strict):
    """What is counted of the responses of a load."""

    completed: int = 0
    good: int | None = None
    """Requests within the SLO; None without one."""
    errors: Counter[str] = Field(default_factory=Counter)
    error_examples: dict[str, str] = Field(default_factory=dict)
    prompt_tokens: int = 0
    """Tokens of completed requests by the server's usage, as are..."""
    output_tokens: int = 0
    min_prompt_tokens: int | None = None
    ttft: Histogram = Field(default_factory=Histogram)
    tpot: Histogram = Field(default_factory=Histogram)
    itl: Histogram = Field(default_factory=Histogram)
    e2e: Histogram = Field(default_factory=Histogram)
    checks: Checks = Field(default_factory=Checks)


class Run(Counts):
    """One load."""

    load: Load
    started_at: str
    elapsed_s: float
    """From the first intended time to the end of the last response."""
    sent: int
    max_in_flight: int
    window_s: float
    windows: list[Window]
    client: ClientState
    figures: dict[str, float | None] = Field(default_factory=dict)


class Setting(_Strict):
    """Settings here and at the server. None: not known."""

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
    """The served model's part of the Serve config: engine arguments, accelerator, replicas."""


class Result(_Strict):
    """One file: a setting and the runs with it."""

    form: str = "serving-result-2"
    setting: Setting
    runs: list[Run]
    best_rate: float | None = None
    """The highest rate within the SLO that a sweep found."""


def figures(run: Run) -> dict[str, float | None]:
    """All figures by name, unit last.

    Throughputs are of completed requests, over the whole time from the first intended sending to the last response's end;
    goodput counts the requests within the SLO over the same time.
    """
    values: dict[str, float | None] = {}
    for name in TIMES:
        times: Histogram = getattr(run, name)
        values[f"{name}_mean_ms"] = times.mean
        values |= {f"{name}_p{percent}_ms": times.percentile(percent) for percent in (50, 90, 99)}
    values["requests_per_s"] = run.completed / run.elapsed_s
    values["output_tok_per_s"] = run.output_tokens / run.elapsed_s
    values["total_tok_per_s"] = (run.prompt_tokens + run.output_tokens) / run.elapsed_s
    cached = run.checks.cached_tokens
    values["computed_prompt_tok_per_s"] = (run.prompt_tokens - (cached or 0)) / run.elapsed_s
    values["cache_hit_rate"] = None if cached is None or not run.prompt_tokens else cached / run.prompt_tokens
    values["goodput_per_s"] = None if run.good is None else run.good / run.elapsed_s
    values["attainment"] = None if run.good is None or not run.sent else run.good / run.sent
    values["error_rate"] = sum(run.errors.values()) / run.sent if run.sent else None
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def mean_in_flight(run: Run) -> float:
    """Requests at once, by Little's law, of those that were completed."""
    return run.e2e.total / 1000 / run.elapsed_s


def format_number(value: float | None) -> str:
    """A figure for people, with about three digits; `-` where it was not measured."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def write(result: Result, path: Path) -> None:
    path.write_text(result.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Result:
    """A stored result. Raises `UserError` for a file that is missing or not a result."""
    try:
        return Result.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: not a result of benchmarks.serving: {where}: {first['msg']}") from error
