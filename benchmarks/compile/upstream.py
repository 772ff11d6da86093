"""Replace a part of the engine, tpu-inference, or of Ray, and say so where an upgrade has moved it."""

import importlib
import inspect
from importlib.metadata import version
from typing import Any

WRITTEN_FOR = {"tpu-inference": "0.29.0", "ray": "2.60.0"}


class UpstreamMovedError(RuntimeError):
    """The part is there no more, or takes other arguments."""


def replace(owner: str, name: str, by: Any, takes: str | None = None) -> Any:
    """Set `owner.name` to `by`, which an engine then uses. Returns what was there.

    Args:
        owner: a module, or a class in one (`package.module:Class`).
        takes: the names of the arguments that the original has, separated by spaces; None compares none.

    Raises:
        UpstreamMovedError: there is no such part, or it takes other arguments.
    """
    module, _, attribute = owner.partition(":")
    try:
        target = importlib.import_module(module)
        target = getattr(target, attribute) if attribute else target
        original = getattr(target, name)
    except (ImportError, AttributeError) as error:
        raise UpstreamMovedError(_moved(owner, name, str(error))) from error
    if takes is not None and (has := " ".join(inspect.signature(original).parameters)) != takes:
        raise UpstreamMovedError(_moved(owner, name, f"it takes ({has}), not ({takes})"))
    setattr(target, name, by)
    return original


def _moved(owner: str, name: str, why: str) -> str:
    return (
        f"{owner}.{name} is not what it was: {why}. What replaces it was written for {_list(WRITTEN_FOR)}, and here are "
        f"{_list({package: version(package) for package in WRITTEN_FOR})}: install runtime_env/requirements-tpu.txt"
    )


def _list(versions: dict[str, str]) -> str:
    return " and ".join(f"{name} {number}" for name, number in versions.items())
