"""What a test wants of the kubelets: which pods are slow or fail, which images are missing."""

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass
class Orders:
    """Patterns are those of a shell, over pods' names and over image references."""

    slow: dict[str, float] = field(default_factory=dict)
    """Seconds before the containers of these pods are started."""
    held: set[str] = field(default_factory=set)
    """Pods whose containers are not started until they are taken out again."""
    unready: set[str] = field(default_factory=set)
    """Pods that run and never get ready."""
    unpullable: set[str] = field(default_factory=set)
    """Images that no registry has."""
    last_words: dict[str, str] = field(default_factory=dict)
    """Containers that fail at every start, by name, and what they log before."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def delay_s(self, pod: str) -> float:
        return max([seconds for pattern, seconds in self.slow.items() if fnmatchcase(pod, pattern)], default=0.0)

    def holds(self, pod: str) -> bool:
        return any(fnmatchcase(pod, pattern) for pattern in self.held)

    def keeps_unready(self, pod: str) -> bool:
        return any(fnmatchcase(pod, pattern) for pattern in self.unready)

    def can_pull(self, image: str) -> bool:
        return not any(fnmatchcase(image, pattern) for pattern in self.unpullable)
