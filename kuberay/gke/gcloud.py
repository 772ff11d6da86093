"""gcloud: run it, always as a list of arguments and never through a shell, and what one thing in Google Cloud is to it."""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.common.errors import OperationError, UserError

Argv = tuple[str, ...]
PROJECT_NUMBER = "@PROJECT_NUMBER@"
"""Stands in commands for the project's number, which only Google Cloud knows."""
_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 3600  # a cluster or a node pool takes up to half an hour
_ABSENT = ("NOT_FOUND", "not found", "404", "does not exist")
_NOT_YET = re.compile(r"[Ss]ervice account \S+ does not exist")  # a new account is known everywhere after some seconds
_TRIES, _PAUSE_S = 6, 10.0
_HINTS = {
    "GPUS_ALL_REGIONS": "of this quota, which counts accelerators of every kind, a new project has none: ask for it, too",
    "actAs": "the account may not use that service account: it needs Service Account User",
    "QUOTA": "the project's quota is used up: ask for more (TPU v6e, in the region of the zone), or use a reservation",
    "GCE_STOCKOUT": "the zone has no such TPU hosts left now: try another zone, a reservation, or capacity flex-start",
    "ZONE_RESOURCE_POOL_EXHAUSTED": "the zone has no such hosts left now: try another zone, a reservation, or flex-start",
    "PERMISSION_DENIED": "the account lacks a role: see docs/gke.md for those that are needed",
    "does not have permission": "the account lacks a role: see docs/gke.md for those that are needed",
    "Reauthentication": "run `gcloud auth login`",
    "do not currently have an active account": "run `gcloud auth login`",
}


Description = Any
"""What gcloud's describe or list prints, as JSON."""


@dataclass(frozen=True)
class Resource:
    """One thing: how to see, make and remove it. `describe` shows it; the functions read that. Only ours is removed."""

    title: str
    describe: Argv | None
    create: tuple[Argv, ...]
    delete: tuple[Argv, ...] = ()
    is_there: Callable[[Description], bool] = bool
    is_ours: Callable[[Description], bool] = lambda _: True
    state: Callable[[Description], str] = lambda _: "there"
    problem: Callable[[Description], str | None] | None = None
    """Why what is there cannot be used, and what to do; None where it always can."""
    empty_first: Argv | None = None
    """A list that has to be empty before it can be removed."""


def run(argv: Sequence[str], project_number: str = "") -> str:
    """What a gcloud command prints on stdout; `project_number` is for those that have it in them.

    Raises:
        UserError: there is no gcloud.
        OperationError: it fails; its own message, and what that means where it is known.
    """
    argv = [part.replace(PROJECT_NUMBER, project_number) for part in argv]
    for left in reversed(range(_TRIES)):
        done = _run(argv)
        if not done.returncode:
            break
        if not (left and _NOT_YET.search(done.stderr)):
            raise OperationError(_explain(argv, done.stderr))
        time.sleep(_PAUSE_S)
    return done.stdout


def describe(argv: Sequence[str]) -> Description | None:
    """What a describe or list command prints; None where the thing is not there. Raises as `run`."""
    done = _run([*argv, "--format=json"])
    if done.returncode:
        if any(word in done.stderr for word in _ABSENT):
            return None
        raise OperationError(_explain(argv, done.stderr))
    return json.loads(done.stdout) if done.stdout.strip() else None


def inspect(resource: Resource) -> Description | None:
    """What describes a resource; None where it is not there, or shown by no command. Raises as `run`."""
    description = describe(resource.describe) if resource.describe else None
    return description if description is not None and resource.is_there(description) else None


def shown(argv: Sequence[str]) -> str:
    """A command as a line for a shell, with the project's number in the variable PROJECT_NUMBER."""
    return " ".join(_quoted(part) for part in ("gcloud", *argv))


def _quoted(part: str) -> str:
    return '"$PROJECT_NUMBER"'.join(shlex.quote(piece) if piece else "" for piece in part.split(PROJECT_NUMBER)) or "''"


def _run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("gcloud")
    if program is None:
        raise UserError("gcloud is not installed: see https://cloud.google.com/sdk/docs/install")
    try:
        return subprocess.run(
            [program, *argv, "--quiet"],
            cwd=_ROOT,  # a build takes the project's files
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise OperationError(f"gcloud {' '.join(argv[:4])} has not finished after {_TIMEOUT_S} s") from None


def _explain(argv: Sequence[str], output: str) -> str:
    message = " ".join(output.split())[-600:] or "no message"
    hint = next((hint for word, hint in _HINTS.items() if word in output), None)
    return f"gcloud {' '.join(argv[:4])} failed: {message}" + (f"\n  {hint}" if hint else "")
