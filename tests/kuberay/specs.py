"""Specs for the tests: the example, with changes."""

from pathlib import Path
from typing import Any

import yaml

from kuberay.spec import Spec, load

EXAMPLE = Path("kuberay/examples/gemma-v6e-4x4.yaml")
ROOT = Path(__file__).resolve().parents[2]


def write_spec(directory: Path, **changes: Any) -> Path:
    """The example in a file of its own, with keys changed (`slices__count=2` for one below another; None removes it)."""
    content = yaml.safe_load((ROOT / EXAMPLE).read_text())
    content["model"]["serve_config"] = str(ROOT / "serve_configs" / "gemma.yaml")
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    path = directory / "spec.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def spec(directory: Path, **changes: Any) -> Spec:
    """The changed example, loaded."""
    return load(write_spec(directory, **changes))
