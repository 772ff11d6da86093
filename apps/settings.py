"""The only module that reads the environment: where caches live and which HTTP path Ray was started with."""

import os
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = "ray-tpu-serve"


def name_and_version() -> str:
    """This project with its version, installed (as in the image) or run from its source tree."""
    try:
        found = version(PROJECT)
    except PackageNotFoundError:
        pyproject = Path(__file__).parents[1] / "pyproject.toml"
        found = str(tomllib.loads(pyproject.read_text())["project"]["version"])
    return f"{PROJECT} {found}"


def cache_root() -> Path:
    """Directory for downloaded or converted files, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / PROJECT


def state_root() -> Path:
    """Directory for what a running local stack has to remember (ports, process ids), by the XDG specification."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / PROJECT


def kubebuilder_assets() -> Path | None:
    """Directory with etcd, kube-apiserver and kubectl, in the variable that kubebuilder's own tools read for it."""
    found = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(found) if found else None


def inherited_environment() -> dict[str, str]:
    """A copy of the environment, for the child processes of a command."""
    return dict(os.environ)


def direct_streaming() -> bool:
    """True when Ray was started with direct streaming: the engine's own HTTP server answers, behind HAProxy.

    The same variable as Ray Serve LLM reads (`RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING`), set before Ray starts.
    """
    return os.environ.get("RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING", "0") == "1"


GUARD_VARIABLE = "RTS_GUARD"


def guard_settings() -> str | None:
    """What this replica's guard is told, as JSON; set by `apps.llm` where a config has a guard."""
    return os.environ.get(GUARD_VARIABLE)


def weights_url() -> str | None:
    """Where the model's weights are staged (`WEIGHTS_URL`, set on the hosts of a cluster)."""
    return os.environ.get("WEIGHTS_URL")


def compile_cache_directory() -> str | None:
    """Where XLA keeps compiled programs on a host's disk, in vLLM TPU's own variable for it (`VLLM_XLA_CACHE_PATH`)."""
    return os.environ.get("VLLM_XLA_CACHE_PATH")


def ray_token() -> str | None:
    """This user's token for Ray's dashboard, from where Ray's own commands take it; None where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def engine_class() -> str | None:
    """Import path of an engine that replaces vLLM's, in Ray Serve LLM's own variable for it (`RAYLLM_VLLM_ENGINE_CLS`)."""
    return os.environ.get("RAYLLM_VLLM_ENGINE_CLS")


def api_key() -> str | None:
    """The key that clients send to a server of the OpenAI API, as the openai package reads it (`OPENAI_API_KEY`)."""
    return os.environ.get("OPENAI_API_KEY")


def prepare_gcsfs() -> None:
    """Let gcsfs talk plain JSON to an emulator: its gRPC client, for kinds of buckets that no emulator has, would stall."""
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
