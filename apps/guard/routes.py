"""Which paths are open to whom. What is in no list does not exist for clients."""

from collections.abc import Iterable
from enum import Enum

from apps.guard.settings import GuardArgs, is_control


class Access(Enum):
    """Who may use a path."""

    PUBLIC = "anybody"
    KEY = "key"
    """Anybody too where the server is open; limits hold all the same."""
    ADMIN = "admin"
    DENIED = "nobody"


class Routes:
    """The lists of the settings. With `open: true` there are no admins, so their routes are closed."""

    def __init__(self, args: GuardArgs) -> None:
        self._exact: dict[str, Access] = {}
        self._prefixes: list[tuple[str, Access]] = []
        self._add(args.admin_routes, Access.DENIED if args.open else Access.ADMIN)
        self._add(args.routes, Access.KEY)
        self._add(args.keyless_routes, Access.PUBLIC)

    def find(self, path: str) -> tuple[Access, str]:
        """Who may use a path, as the server behind sees it (decoded, without Serve's prefix), and the entry that says so."""
        if access := self._exact.get(path):
            return access, path
        for prefix, access in self._prefixes:
            # A wildcard must not open what the lists may not name.
            if path.startswith(prefix) and (access not in (Access.KEY, Access.PUBLIC) or not is_control(path)):
                return access, f"{prefix}*"
        return Access.DENIED, ""

    def _add(self, paths: Iterable[str], access: Access) -> None:
        for path in paths:
            if path.endswith("/*"):
                self._prefixes.append((path[:-1], access))
            else:
                self._exact[path] = access
