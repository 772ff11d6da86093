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

    def __post_init__(self) -> None:
        if not isinstance(self.config, dict) or not isinstance(self.config.get("applications"), list):
            raise ValueError("a Serve config is a mapping with a list of applications")


def parse(text: str) -> list[Change]:
    """The changes in a text of JSON; none in one that is empty, bad or of another version."""
    try:
        return [Change(**record) for record in json.loads(text or "[]")]
    except (TypeError, ValueError):
        return []


class Store(Protocol):
    """A place for the changes of one Serve: a file here (`FileStore`), or its cluster (`rollout.deploy.ClusterStore`)."""

    def read(self) -> list[Change]:
        """What is kept there; nothing where there is none yet, or it is not ours."""

    def write(self, changes: list[Change]) -> None:
        """Keep these, whole or not at all."""


@dataclass(frozen=True)
class FileStore:
    """Changes of a Serve that is not on Kubernetes, by its dashboard's address."""

    root: Path
    address: str

    @property
    def path(self) -> Path:
        return self.root / "changes" / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', self.address)}.json"

    def read(self) -> list[Change]:
        return parse(self.path.read_text() if self.path.exists() else "")

    def write(self, changes: list[Change]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps([asdict(change) for change in changes], indent=1))
        draft.replace(self.path)


class History:
    """The changes of one Serve; the newest is last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changes = store.read()

    def add(self, change: Change) -> None:
        """Note a change."""
        self.changes = [*self.changes, change][-_KEPT:]
        self._store.write(self.changes)

    def note(self, config: dict[str, Any]) -> None:
        """Note a config that runs, where the last one has another effect: Serve reports it with defaults of its own."""
        if not self.changes or strongest(effects(config, self.changes[-1].config, remove_others=True)) != "nothing":
            self.add(Change(now(), config, "found"))

    def record(self, config: dict[str, Any]) -> None:
        """Note a config that was deployed, where it is another than the last in anything."""
        if not self.changes or config != self.changes[-1].config:
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
