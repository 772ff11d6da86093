"""The only module that reads the environment, such as where caches live and which HTTP path Ray was started with."""

import logging
import os
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from apps.common.errors import UserError

PROJECT = "ray-tpu-serve"


def name_and_version() -> str:
    """This project's name and version, whether it is installed (as in the image) or run from its source tree."""
    try:
        number = version(PROJECT)
    except PackageNotFoundError:
        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        number = str(tomllib.loads(pyproject.read_text())["project"]["version"])
    return f"{PROJECT} {number}"


CACHE, STATE = "XDG_CACHE_HOME", "XDG_STATE_HOME"


def cache_root() -> Path:
    """Directory for downloaded or converted files, by the XDG base directory specification."""
    return _in_home(CACHE, ".cache")


def state_root() -> Path:
    """Directory for what a running local stack has to remember (ports, process ids), by the XDG specification."""
    return _in_home(STATE, ".local/state")


def _in_home(variable: str, place: str) -> Path:
    base = os.environ.get(variable)
    try:
        return Path(base or Path.home() / place) / PROJECT
    except RuntimeError as error:  # this user has no home
        raise UserError(f"{error}: set {variable} to a directory that you may write to") from None


def make_directory(directory: Path, variable: str) -> Path:
    """Make a directory below the place that a variable names. Raises `UserError` where a home is missing or read-only."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{error}: set {variable} to a directory that you may write to") from None
    if not os.access(directory, os.W_OK):
        raise UserError(f"{directory} is read-only for you: set {variable} to a directory that you may write to")
    return directory


def kubebuilder_assets() -> Path | None:
    """Directory with etcd, kube-apiserver and kubectl, from the variable that kubebuilder's own tools read."""
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(directory) if directory else None


def inherited_environment() -> dict[str, str]:
    """A copy of the environment, for the child processes of a command."""
    return dict(os.environ)


_PROXIES, _NO_PROXY = ("http_proxy", "https_proxy", "all_proxy"), ("no_proxy", "NO_PROXY")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def keep_loopback_direct() -> None:
    """Let this process and its children reach this machine without the user's proxy, which knows another 127.0.0.1.

    A SOCKS proxy is taken out: httpx has no support for it here, and would refuse to start rather than go without it.
    """
    exempt = [host for name in _NO_PROXY for host in os.environ.get(name, "").replace(" ", "").split(",") if host]
    os.environ.update(dict.fromkeys(_NO_PROXY, ",".join(dict.fromkeys([*exempt, *_LOOPBACK]))))
    for name in [name for name in os.environ if name.lower() in _PROXIES and os.environ[name].startswith("socks")]:
        del os.environ[name]


def proxy_exemptions() -> str | None:
    """What a shell with a proxy needs in `no_proxy`, so that its own programs reach this machine; None without a proxy."""
    has_proxy = any(name.lower() in _PROXIES and value for name, value in os.environ.items())
    return os.environ.get("no_proxy") if has_proxy else None


def direct_streaming() -> bool:
    """True when Ray was started with direct streaming: the engine's own HTTP server answers, behind HAProxy.

    The same variable as Ray Serve LLM reads (`RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING`), set before Ray starts.
    """
    return os.environ.get("RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING", "0") == "1"


GUARD_VARIABLE = "RTS_GUARD"


def guard_settings() -> str:
    """Settings of this process's guard, as JSON; empty where none are set."""
    return os.environ.get(GUARD_VARIABLE, "")


def weights_url() -> str | None:
    """URL of the model's staged weights (`WEIGHTS_URL`, set on the hosts of a cluster)."""
    return os.environ.get("WEIGHTS_URL")


def compile_cache_directory() -> str | None:
    """Directory of XLA's compiled programs on a host's disk, from vLLM TPU's own variable (`VLLM_XLA_CACHE_PATH`)."""
    return os.environ.get("VLLM_XLA_CACHE_PATH")


RAY_TOKEN, RAY_TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def ray_token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """File of this user's token for Ray. Source: Ray 2.60.0, `ray/_private/authentication`."""
    return Path(environment.get(RAY_TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def ray_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """This user's token for Ray's dashboard, from where Ray's own commands read it; None where it is missing or unreadable."""
    try:
        return (environment.get(RAY_TOKEN) or ray_token_file(environment).read_text()).strip()
    except OSError:
        return None


def ray_headers() -> dict[str, str]:
    """Headers for a request to Ray's dashboard; a dashboard that asks for no token ignores them."""
    token = ray_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def engine_class() -> str | None:
    """Import path of an engine that replaces vLLM's, from Ray Serve LLM's own variable (`RAYLLM_VLLM_ENGINE_CLS`)."""
    return os.environ.get("RAYLLM_VLLM_ENGINE_CLS")


OTLP_ENDPOINT, OTLP_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


def otlp_endpoint(environment: Mapping[str, str] = os.environ) -> str | None:
    """Endpoint of traces, from OpenTelemetry's variable: a gRPC address such as http://collector:4317, or HTTP's whole URL."""
    return environment.get(OTLP_ENDPOINT)


def otlp_over_http() -> bool:
    """True for http/protobuf; gRPC is the default, as vLLM has it."""
    return os.environ.get(OTLP_PROTOCOL) == "http/protobuf"


SERVE_TRACES = {
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "apps.common.tracing:span_processors",
    "RAY_SERVE_TRACING_SAMPLING_RATIO": "1",  # of requests whose client has not decided; a collector can take its share
}
"""Variables that Ray is started with where traces have an endpoint."""


LONGEST_REQUEST_S, MAX_HEADER_BYTES = 3600, 16 * 1024
"""Limits of a request's duration (seconds) and headers (bytes) in the guard; its settings may lower them."""
SERVE_HAPROXY = {
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_REQUEST_S),  # of a process that a reload replaced, with its streams
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(4 * MAX_HEADER_BYTES),
    # Else parts of bodies get lost, and others are seen late: `_ONE_LOOP` in runtime_env/haproxy says why.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Variables that Ray is started with: HAProxy leaves it to the guard to refuse what is too slow or too large, and each request
is answered in the loop that reads it."""


def api_key() -> str | None:
    """The key for a server of the OpenAI API, from the variable that the openai package reads (`OPENAI_API_KEY`)."""
    return os.environ.get("OPENAI_API_KEY")


def prepare_gcsfs() -> None:
    """Let gcsfs talk plain JSON to an emulator: its gRPC client, for kinds of buckets that no emulator has, would stall.

    Its own traceback of each refusal is left out: what is raised says it.
    """
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
