"""What a kubelet hands its containers to. Here: a runtime that runs nothing, whose containers end when a test wants it."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emulation.kubernetes.nodes.api import Json
from emulation.kubernetes.supervisor import end_with_parent

_JOB_LABEL = "batch.kubernetes.io/job-name"


class Container(Protocol):
    """A started container."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def is_ready(self) -> bool:
        """Whether its readiness probe passes."""

    def stop(self, grace_s: float) -> None:
        """Ask it to end, then end it; return when it has ended."""

    def fail(self, exit_code: int) -> None:
        """End it as if by itself. A real process is killed, whatever the code."""


class Runtime(Protocol):
    """Runs pods."""

    has_network: bool
    """Whether the pods' addresses are those of a network of their own, in which `popen` starts its helpers."""

    def open(self, pod: Json, ip: str) -> None:
        """Make the place for a pod's containers, with its address."""

    def start(self, pod: Json, container: Json, environment: dict[str, str], log: Callable[[str], None]) -> Container:
        """Start one; `log` takes its output by lines."""

    def close(self, pod: Json) -> None:
        """The pod is gone, and whatever of it still runs ends."""

    def popen(self, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a helper where the pods' addresses can be reached."""


@dataclass
class EmulatedContainer:
    """Runs until a test ends it."""

    _code: int | None = None

    def exit_code(self) -> int | None:
        return self._code

    def is_ready(self) -> bool:
        return True

    def stop(self, grace_s: float) -> None:  # noqa: ARG002
        self.fail(0)

    def fail(self, exit_code: int) -> None:
        self._code = exit_code


def of_job(pod: Json) -> bool:
    """Jobs of this project need the world outside: the hub and the bucket."""
    return _JOB_LABEL in pod["metadata"].get("labels", {})


class EmulatedRuntime:
    """Init containers and those of jobs succeed at once, others run and are ready."""

    has_network = False

    def open(self, pod: Json, ip: str) -> None:
        pass

    def start(self, pod: Json, container: Json, environment: dict[str, str], log: Callable[[str], None]) -> EmulatedContainer:
        log(f"emulated: {container['name']} with {len(environment)} variables")
        started = EmulatedContainer()
        if of_job(pod) or container in pod["spec"].get("initContainers", []):
            started.fail(0)
        return started

    def close(self, pod: Json) -> None:
        pass

    def popen(self, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )
