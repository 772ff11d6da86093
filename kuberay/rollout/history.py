"""What was deployed through this tool, and how it went: the last healthy config, and how long a change took."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass
class History:
    """The changes of one Serve; the newest is last."""

    path: Path
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path, address: str) -> "History":
        """The history of the Serve at a dashboard's address, in a file of its own."""
        path = root / "changes" / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', address)}.json"
        try:
            changes = [Change(**record) for record in json.loads(path.read_text())]
        except (FileNotFoundError, ValueError, TypeError):  # none yet, or not ours
            changes = []
        return cls(path, changes)

    def add(self, change: Change) -> None:
        """Note a change, whole or not at all."""
        self.changes = [*self.changes, change][-_KEPT:]
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps([asdict(change) for change in self.changes], indent=1))
        draft.replace(self.path)

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
