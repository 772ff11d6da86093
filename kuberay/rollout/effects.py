"""What a new Serve config does to the apps that run: nothing, a setting in place, a restart, or more than Serve can.

Serve (2.60) restarts all replicas of an app whose import path, arguments or runtime environment change, and those of a
deployment whose actor options or placement change; its other settings it takes while the replicas run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from apps.slice.placement import wanted_slice

Config = Mapping[str, Any]
Kind = Literal["new cluster", "restart", "start", "remove", "in place", "nothing"]
"""Kinds of effect, the strongest first."""
_CODE = ("import_path", "args", "runtime_env", "external_scaler_enabled")
_IN_PLACE = ("route_prefix", "logging_config")
_RESTARTING = ("ray_actor_options", "placement_group_bundles", "placement_group_strategy", "max_replicas_per_node")
_WHOLE_SERVE = ("http_options", "proxy_location", "grpc_options")
_DRAIN_S = 20.0  # Serve's default for graceful_shutdown_timeout_s


@dataclass(frozen=True)
class Effect:
    """What happens to one app (or, for `new cluster`, to Serve itself), and which keys make it happen."""

    app: str
    kind: Kind
    keys: tuple[str, ...] = ()


def effects(deployed: Config, new: Config, *, remove_others: bool = False) -> list[Effect]:
    """An effect for each app of both configs, and one for Serve's own options where they differ.

    `remove_others`: apps that the new config does not name are removed.
    """
    old = {app["name"]: app for app in deployed["applications"]}
    wanted = {app["name"]: app for app in new["applications"]}
    changes = [_effect(old.get(name), app) for name, app in wanted.items()]
    changes += [Effect(name, "remove") for name in old if remove_others and name not in wanted]
    keys = list(_serve_options(deployed, new))
    return changes + ([Effect("Serve", "new cluster", tuple(keys))] if keys else [])


def strongest(changes: Iterable[Effect]) -> Kind:
    """The strongest of several effects; `nothing` of none."""
    return min((effect.kind for effect in changes), key=get_args(Kind).index, default="nothing")


def chips(deployed: Config, new: Config) -> dict[str, int]:
    """TPU chips of the slices that the LLM apps name: before and after the change, and at most (peak) while it is made."""
    before, after = _all_chips(deployed), _all_chips(new)
    surge_percent = max((_deployment(llm).get("max_surge_percent", 0) for llm in _models(new)), default=0)
    return {"before": before, "after": after, "peak": max(before, after) + round(surge_percent / 100 * after)}


def drain_s(new: Config) -> float:
    """The longest time that running answers have to end when a replica is stopped."""
    key = "graceful_shutdown_timeout_s"
    return max((float(_deployment(llm).get(key, _DRAIN_S)) for llm in _models(new)), default=_DRAIN_S)


def replicas(deployed: Config, new: Config) -> int:
    """Replicas of a model before or after the change, whichever are fewer: all but one of them stay while it is made."""
    return min((_replicas(llm) for config in (deployed, new) for llm in _models(config)), default=1)


def describe(deployed: Config, new: Config, changes: Iterable[Effect]) -> dict[str, Any]:
    """The change for machines; how long such a one took is not measured yet."""
    changes = list(changes)
    kind = strongest(changes)
    return {
        "effects": [asdict(effect) for effect in changes],
        "kind": kind,
        "chips": chips(deployed, new),
        "replicas": replicas(deployed, new),
        "drain_s": drain_s(deployed) if kind == "restart" else None,
        "measured_away_s": None,
        "measured_s": None,
    }


def as_text(change: Mapping[str, Any]) -> str:
    """A change as `describe` has it, for people."""
    lines = []
    for effect in change["effects"]:
        lines.append(f"  {effect['app']:<12} {effect['kind']}" + (f": {', '.join(effect['keys'])}" if effect["keys"] else ""))
    need = change["chips"]
    lines.append(f"  {'chips':<12} {need['before']} now, {need['after']} after, {need['peak']} at most on the way")
    if change["drain_s"] is not None:
        new_requests = "new ones get 503 with Retry-After until the one replica is back"
        if change["replicas"] > 1:
            others = "replica" if change["replicas"] == 2 else "replicas"
            new_requests = f"new ones go to the other {others}: one is changed after the other"
        lines.append(f"  {'requests':<12} running answers have {change['drain_s']:.0f} s to end, {new_requests}")
    if change["kind"] in ("restart", "start", "in place"):
        lines.append(f"  {'time':<12} {_time(change['measured_s'], change['measured_away_s'])}")
    return "\n".join(lines)


def _time(seconds: float | None, away_s: float | None) -> str:
    if seconds is None or away_s is None:
        return "not measured yet: no such change was made here before"
    return f"the last such change took {seconds:.0f} s, the model was away for {away_s:.0f} s of it"


def _effect(old: Config | None, app: Config) -> Effect:
    if old is None:
        return Effect(app["name"], "start")
    code = [path for key in _CODE for path in _differences(old.get(key), app.get(key), key)]
    if code:
        return Effect(app["name"], "restart", tuple(code))
    before, after = _deployments(old), _deployments(app)
    changed = [
        f"{name}.{key}"
        for name in sorted({*before, *after})
        for key in sorted({*before.get(name, {}), *after.get(name, {})})
        if before.get(name, {}).get(key) != after.get(name, {}).get(key)
    ]
    changed += [path for key in _IN_PLACE for path in _differences(old.get(key), app.get(key), key)]
    if any(key.rpartition(".")[2] in _RESTARTING for key in changed):
        return Effect(app["name"], "restart", tuple(changed))
    return Effect(app["name"], "in place" if changed else "nothing", tuple(changed))


def _differences(old: Any, new: Any, path: str) -> list[str]:
    """Paths of the values that differ; of a list of one its only element is compared."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [below for key in sorted({*old, *new}) for below in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [below for index, pair in pairs for below in _differences(*pair, f"{path}[{index}]")]
    return [] if (old or None) == (new or None) else [path]


def _serve_options(deployed: Config, new: Config) -> Iterator[str]:
    """Options that the new config gives and that are different now."""
    for part in _WHOLE_SERVE:
        old, wanted = deployed.get(part), new.get(part)
        if isinstance(old, Mapping) and isinstance(wanted, Mapping):
            yield from (f"{part}.{key}" for key in wanted if key in old and old[key] != wanted[key])
        elif None not in (old, wanted) and old != wanted:
            yield part


def _deployments(app: Config) -> dict[str, Config]:
    return {deployment["name"]: deployment for deployment in app.get("deployments") or []}


def _models(config: Config) -> list[Config]:
    return [llm for app in config["applications"] for llm in (app.get("args") or {}).get("llm_configs") or []]


def _deployment(llm: Config) -> Config:
    return llm.get("deployment_config") or {}


def _replicas(llm: Config) -> int:
    number = _deployment(llm).get("num_replicas", 1)
    return number if isinstance(number, int) else 1


def _all_chips(config: Config) -> int:
    slices = [(wanted_slice(llm), _replicas(llm)) for llm in _models(config)]
    return sum(shape.chips * count for shape, count in slices if shape)
