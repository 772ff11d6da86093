"""Read Serve's own status (`/api/serve/applications/`): which apps run, what the others wait for, why one failed. Pure."""

from collections.abc import Mapping
from typing import Any

Applications = Mapping[str, Mapping[str, Any]]
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


def all_running(applications: Applications) -> bool:
    """True when there are apps and all of them run."""
    return bool(applications) and all(app["status"] == "RUNNING" for app in applications.values())


def failures(applications: Applications) -> dict[str, str]:
    """Each app that has failed, with the reason in one line."""
    return {
        name: f"app {name} is {app['status']}: {_reason(app)}" for name, app in applications.items() if app["status"] in _FAILED
    }


def failure(applications: Applications) -> str | None:
    """The first app that has failed and why, in one line; None if none has."""
    return next(iter(failures(applications).values()), None)


def waiting_for(applications: Applications) -> str:
    """One line on what is being waited for."""
    waiting = []
    for name, app in applications.items():
        if app["status"] == "RUNNING":
            continue
        if app["status"] == "DELETING":
            waiting.append(f"{name}: is being removed")
            continue
        deployments = app.get("deployments") or {}
        starting = [d["name"] for d in deployments.values() if d["status"] != "HEALTHY"]
        waiting.append(f"{name}: starting {', '.join(starting)}" if starting else f"{name}: importing and building")
    return "; ".join(waiting) or "apps: waiting for Serve to list them"


def _reason(app: Mapping[str, Any]) -> str:
    """The telling end of Serve's message, which is a traceback: its last error and the lines that belong to it."""
    messages = [app.get("message") or "", *((d.get("message") or "") for d in (app.get("deployments") or {}).values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if "Error" in line.split(":")[0]]
    return " ".join(lines[errors[-1] : errors[-1] + 4]) if errors else (lines or ["no message"])[-1]
