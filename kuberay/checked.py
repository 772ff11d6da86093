"""A spec with its Serve config, both checked: what every command that changes something begins with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.checks.findings import Finding
from apps.checks.serve_rules import check_serve_config
from apps.checks.source import Source, read
from apps.common.errors import UserError
from kuberay import agreement
from kuberay.spec import Spec, load


@dataclass(frozen=True)
class Deployment:
    """`serve_text` is the Serve config as it stands in its file, `warnings` what is allowed and should be known."""

    spec: Spec
    serve_config: dict[str, Any]
    serve_text: str
    warnings: tuple[str, ...]


def load_checked(path: Path, serve_config: Path | None = None) -> Deployment:
    """The spec in a file, with its own Serve config or another.

    Raises:
        UserError: one of them is wrong, or they do not fit together; every finding with file and line.
    """
    spec = load(path)
    serve_path = serve_config or spec.serve_config_path
    source = read(serve_path)
    found = check_serve_config(source.content, slices=spec.slices.count)
    if not _errors(found):
        found += agreement.check(spec, source.content)
    lines = [*_lines(serve_path, source, found), *_lines(path, read(path), agreement.check_memory(spec))]
    if errors := [line for line in lines if ": error: " in line]:
        raise UserError("\n".join(errors))
    return Deployment(spec, source.content, serve_path.read_text(), tuple(lines))


def _errors(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.severity == "error"]


def _lines(path: Path, source: Source, found: list[Finding]) -> list[str]:
    return [f"{path}:{source.line(one.path)}: {one.severity}: {one}" for one in found]
