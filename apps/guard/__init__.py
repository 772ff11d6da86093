"""Keys, quotas and limits in front of the model, as ASGI middleware: `apps.guard.GuardMiddleware`, also for vLLM's own
`--middleware`.

Settings come from the Serve config's `guard:` section; what a request may do and what it costs is decided here, in its process.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`GuardMiddleware` on demand: the offline checks import the settings beside it, without a web framework."""
    if name != "GuardMiddleware":
        raise AttributeError(name)
    from apps.guard.middleware import GuardMiddleware

    return GuardMiddleware
