"""One thing in Google Cloud: how to see, make and remove it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kuberay.gke.gcloud import Argv

Found = Any
"""What gcloud's describe or list says, as JSON."""


@dataclass(frozen=True)
class Resource:
    """One thing. `describe` shows it; the functions read what was shown. What is not ours is never removed."""

    title: str
    describe: Argv | None
    create: tuple[Argv, ...]
    delete: tuple[Argv, ...] = ()
    is_there: Callable[[Found], bool] = bool
    is_ours: Callable[[Found], bool] = lambda _: True
    state: Callable[[Found], str] = lambda _: "there"
    problem: Callable[[Found], str | None] = lambda _: None
    """Why what is there cannot be used, and what to do."""
