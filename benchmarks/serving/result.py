"""The result of a load test as it is kept in a file: what was set, what was measured, and which records it was computed from.

Times are milliseconds where the name says so, else seconds; None means not measured.
"""

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.serving.profiles import Profile

TIMES = ("ttft", "ttfc", "tpot", "itl", "gap", "e2e")
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
STATISTICS = ("mean", *PERCENTILES)
FORM = "serving-result-3"


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


class ClientState(_Strict):
    """Whether the client's processes kept up; of several the worst. None: not known."""

    cpu_share: float
    """CPU time as a share of one core."""
    wait_share: float | None = None
    """Share of the time in which it was ready to run and had no core."""
    late_p50_ms: float = 0.0
    """How late something that comes at any moment would be noticed, by the pauses of the event loop..."""
    late_p99_ms: float = 0.0
    longest_pause_ms: float = 0.0
    connections: int = 0
    rss_mb: list[float] = []
    """Memory of the process in each tenth of the run."""


class ServerSample(_Strict):
    """What the server's metrics said at a moment of the run."""

    at_s: float
    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    """Share that is in use."""


class Run(_Strict):
    """One load."""

    load: Load
    repeat: int = 0
    """Number among the runs of the same load."""
    started_at: str
    load_s: float
    """Time in which requests were sent; what came later is the drain."""
    elapsed_s: float
    """From the first intended time to the end of the last response."""
    sent: int
    completed: int
    cancelled: int = 0
    errors: Counter[str] = Field(default_factory=Counter)
    error_examples: dict[str, str] = {}
    prompt_tokens: int = 0
    """Tokens of completed requests by the server's usage, as are..."""
    output_tokens: int = 0
    max_in_flight: int = 0
    cached_tokens: int | None = None
    """Prompt tokens that the server found in its cache, by its usage or its metrics."""
    cached_by: str | None = None
    tokens_per_step: float | None = None
    """Tokens of a sequence in a step of speculative decoding, by the server's metrics."""
    replicas: int | None = None
    """Running replicas of the model, by Ray's dashboard."""
    client: ClientState | None = None
    server: list[ServerSample] = []
    figures: dict[str, float | None] = {}


class Setting(_Strict):
    """Settings here and at the server. None: not known."""

    url: str
    model: str
    profiles: list[Profile]
    seed: int | None
    slo: Slo
    tool: str = "benchmarks.serving"
    tokenizer: str
    warmup_requests: int
    processes: int = 1
    versions: dict[str, str]
    client_cores: int | None
    server_version: str | None = None
    model_card: dict[str, Any] | None = None
    not_recorded: list[str] = []
    """What the tool did not write, in words."""
    serve_config_digest: str | None = None
    llm_config: dict[str, Any] | None = None
    """The served model's part of the Serve config: engine arguments, accelerator, replicas."""


class RecordsOf(_Strict):
    """The file beside this one that every figure is computed from."""

    file: str
    sha256: str
    requests: int


class Best(_Strict):
    """What a sweep found."""

    rate: float
    """The highest rate within the SLO, in two runs..."""
    achieved_per_s: float
    """...and the lower of what the server really answered in them."""
    knee_per_s: float | None = None
    """The rate at which throughput over latency was highest."""


class Result(_Strict):
    """One file: a setting and the runs with it."""

    form: str = FORM
    setting: Setting
    runs: list[Run]
    best: Best | None = None
    records: RecordsOf | None = None


def times_of(run: Run) -> list[list[str]]:
    """A row for each kind of time that was measured: its name and its STATISTICS in ms."""
    values = {name: [run.figures[f"{name}_{statistic}_ms"] for statistic in STATISTICS] for name in TIMES}
    return [[name.upper(), *map(format_number, each)] for name, each in values.items() if any(v is not None for v in each)]


def format_number(value: float | None) -> str:
    """A figure for people, with about three digits; `-` where it was not measured."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"
