"""Files by which emulation/kubernetes/nodes finds pods and their logs."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from emulation.kubernetes.nodes.api import Json

_MESSAGE_BYTES = 2048


class PodFiles:
    """The files of one pod."""

    def __init__(self, root: Path, namespace: str, name: str) -> None:
        self._directory = root / namespace / name
        self._directory.mkdir(parents=True, exist_ok=True)

    def address(self, ip: str) -> None:
        (self._directory / "ip").write_text(ip)

    def begin(self, container: str) -> Callable[[str], None]:
        """Start a container's log; a restarted one's old log is kept as the previous. What it returns adds a line."""
        path = self._directory / f"{container}.log"
        if path.exists():
            path.replace(self._directory / f"{container}.previous.log")
        path.touch()
        (self._directory / f"{container}.running").touch()

        def add(line: str) -> None:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            with path.open("a") as file:  # in the form of the container runtimes
                file.write(f"{stamp} stdout F {line}\n")

        return add

    def termination_message(self, container: Json, exit_code: int) -> str:
        """The message in the pod's status about its end: its last words, where it failed and its policy wants them."""
        if exit_code == 0 or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        lines = (self._directory / f"{container['name']}.log").read_text().splitlines()
        return "\n".join(line.split(" ", 3)[-1] for line in lines)[-_MESSAGE_BYTES:]

    def ended(self, container: str) -> None:
        (self._directory / f"{container}.running").unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def write_forwards(root: Path, forwards: dict[str, str]) -> None:
    """Ports of pods that are really somewhere else, by `address:port`."""
    temporary = root / "forwards.tmp"
    temporary.write_text(json.dumps(forwards))
    temporary.replace(root / "forwards.json")
