"""What was deployed through this tool, and how it went: the last healthy config, and how long a change took."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kuberay.rollout.effects import effects, strongest

_KEPT = 10


@dataclass(frozen=True)
class Change:
    """A config that became healthy. Seconds of the whole change, and of those without any replica of the model."""

    when: str
    """UTC in ISO 8601."""
    config: dict[str, Any]
    kind: str
    """The strongest effect that it had: restart, in place, ..."""
    replicas: int = 0
    """Replicas of the model before or after, whichever were fewer. With two, one serves while the other is changed."""
    seconds: float | None = None
    """None for a config that was there before."""
    away_s: float | None = None


class Store(Protocol):
    """A place for the changes of one Serve: a file here (`FileStore`), or its cluster (`rollout.deploy.ClusterStore`)."""

    def read(self) -> list[dict[str, Any]]:
        """What is kept there; nothing where there is none yet, or it is not ours."""

    def write(self, changes: list[dict[str, Any]]) -> None:
        """Keep these, whole or not at all."""


@dataclass(frozen=True)
class FileStore:
    """Changes of a Serve that is not on Kubernetes, by its dashboard's address."""

    root: Path
    address: str

    @property
    def path(self) -> Path:
        return self.root / "changes" / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', self.address)}.json"

    def read(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads(self.path.read_text()))
        except (FileNotFoundError, ValueError):
            return []

    def write(self, changes: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(changes, indent=1))
        draft.replace(self.path)


class History:
    """The changes of one Serve; the newest is last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        try:
            self.changes = [Change(**record) for record in store.read()]
        except TypeError:  # of another version
            self.changes = []

    def add(self, change: Change) -> None:
        """Note a change."""
        self.changes = [*self.changes, change][-_KEPT:]
        self._store.write([asdict(change) for change in self.changes])

    def note(self, config: dict[str, Any]) -> None:
        """Note a config that runs, where it is another than the last."""
        last = self.changes[-1].config if self.changes else None
        if last is None or strongest(effects(config, last, remove_others=True)) != "nothing":
            self.add(Change(now(), config, "found"))

    def last(self, kind: str, replicas: int) -> Change | None:
        """The newest change of a kind, with so many replicas, of which the time is known."""
        alike = (change for change in reversed(self.changes) if (change.kind, change.replicas) == (kind, replicas))
        return next((change for change in alike if change.away_s is not None), None)

    def before(self, deployed: dict[str, Any]) -> dict[str, Any] | None:
        """The newest healthy config that would change what runs."""
        configs = (change.config for change in reversed(self.changes))
        return next(
            (config for config in configs if strongest(effects(deployed, config, remove_others=True)) != "nothing"), None
        )


def now() -> str:
    """The time of a change."""
    return datetime.now(UTC).isoformat(timespec="seconds")
