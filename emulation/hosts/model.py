"""Find the weights for the local stack: the laptop's own, a directory, or a model fetched from the Hugging Face hub."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from apps.common.errors import OperationError, UserError
from apps.weights.cache import resolve_source
from emulation.hosts.user_path import PROJECT_ROOT

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]


@dataclass(frozen=True)
class LocalModel:
    """`directory` holds config.json and *.safetensors; `id` is what clients call the model."""

    id: str
    directory: Path


def chosen_model(wanted: str) -> LocalModel:
    """The model for `--model`: a directory, or a hub id, which huggingface_hub fetches first (resumable).

    Raises:
        UserError: no such directory or model, no permission, no network.
    """
    source = resolve_source(wanted)
    if Path(source).is_dir():
        return LocalModel(Path(source).name, Path(source))
    return LocalModel(source, Path(resolve_source(str(_fetch(source)))))


def run_maker(maker: str, log: Path) -> Path:
    """The directory of weights that a module makes unless the cache has them; in a process of its own, as it imports torch.

    Raises:
        UserError, OperationError: it failed; the message is its last line.
    """
    done = subprocess.run([sys.executable, "-m", maker], cwd=PROJECT_ROOT, capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise (UserError if done.returncode == UserError.exit_code else OperationError)(message)
    return Path(done.stdout.strip().splitlines()[-1])


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except errors.GatedRepoError:
        raise UserError(f"{hub_id} is gated: accept its terms on its page, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{hub_id}: the hub has no such model, or it is private and HF_TOKEN is not set") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{hub_id} cannot be fetched from the hub ({reason}): check the network, or give a local directory"
        ) from None
