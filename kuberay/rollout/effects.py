"""What a new Serve config does to the apps that run: nothing, a setting in place, a restart, or more than Serve can.

Serve (2.60) restarts all replicas of an app whose import path, arguments or runtime environment change, and those of a
deployment whose actor options or placement change; its other settings it takes while the replicas run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from apps.slice.placement import wanted_slice

Config = Mapping[str, Any]
Kind = Literal["new cluster", "restart", "start", "remove", "in place", "nothing"]
"""From the strongest to the weakest."""
_CODE = ("import_path", "args", "runtime_env", "external_scaler_enabled")
_RESTARTING = ("ray_actor_options", "placement_group_bundles", "placement_group_strategy", "max_replicas_per_node")
_WHOLE_SERVE = ("http_options", "proxy_location", "grpc_options")
_DRAIN_S = 20.0  # Serve's default for graceful_shutdown_timeout_s


@dataclass(frozen=True)
class Effect:
    """What happens to one app (or, for `new cluster`, to Serve itself), and which keys make it happen."""

    app: str
    kind: Kind
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Need:
    """TPU chips that the apps hold before and after a change, and at most while it is made."""

    before: int
    after: int
    most: int


def effects(today: Config, new: Config, *, alone: bool = False) -> list[Effect]:
    """One for each app of both configs, and one for Serve's own options where they differ. `alone` removes apps not named."""
    old = {app["name"]: app for app in today["applications"]}
    wanted = {app["name"]: app for app in new["applications"]}
    found = [_effect(old.get(name), app) for name, app in wanted.items()]
    found += [Effect(name, "remove") for name in old if alone and name not in wanted]
    keys = list(_serve_options(today, new))
    return found + ([Effect("Serve", "new cluster", tuple(keys))] if keys else [])


def strongest(found: Iterable[Effect]) -> Kind:
    """Of several effects; `nothing` of none."""
    return min((one.kind for one in found), key=get_args(Kind).index, default="nothing")


def chips(today: Config, new: Config) -> Need:
    """For what the configs' LLM apps ask, by the slices that they name."""
    before, after = _all_chips(today), _all_chips(new)
    surging = max((_surge(app) for app in new["applications"]), default=0.0)
    return Need(before, after, max(before, after) + round(surging * after))


def drain_s(new: Config) -> float:
    """The longest time that running answers have to end when a replica is stopped."""
    found = [float((llm.get("deployment_config") or {}).get("graceful_shutdown_timeout_s", _DRAIN_S)) for llm in _models(new)]
    return max(found, default=_DRAIN_S)


def replicas(today: Config, new: Config) -> int:
    """That stay of a model while it is changed, and one: those before or after, whichever are fewer."""
    return min((_replicas(llm) for config in (today, new) for llm in _models(config)), default=1)


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
    changed += ["route_prefix"] if old.get("route_prefix") != app.get("route_prefix") else []
    if any(key.rpartition(".")[2] in _RESTARTING for key in changed):
        return Effect(app["name"], "restart", tuple(changed))
    return Effect(app["name"], "in place" if changed else "nothing", tuple(changed))


def _differences(old: Any, new: Any, path: str) -> list[str]:
    """Paths of the values that differ; of a list of one its only element is compared."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [found for key in sorted({*old, *new}) for found in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found for index, pair in enumerate(zip(old, new, strict=True)) for found in _differences(*pair, f"{path}[{index}]")
        ]
    return [] if (old or None) == (new or None) else [path]


def _serve_options(today: Config, new: Config) -> Iterator[str]:
    """Of those that the new config gives, the ones that are otherwise now."""
    for part in _WHOLE_SERVE:
        old, wanted = today.get(part), new.get(part)
        if isinstance(old, Mapping) and isinstance(wanted, Mapping):
            yield from (f"{part}.{key}" for key in wanted if key in old and old[key] != wanted[key])
        elif None not in (old, wanted) and old != wanted:
            yield part


def _deployments(app: Config) -> dict[str, Config]:
    return {one["name"]: one for one in app.get("deployments") or []}


def _models(config: Config) -> list[Config]:
    return [llm for app in config["applications"] for llm in (app.get("args") or {}).get("llm_configs") or []]


def _replicas(llm: Config) -> int:
    found = (llm.get("deployment_config") or {}).get("num_replicas", 1)
    return found if isinstance(found, int) else 1


def _all_chips(config: Config) -> int:
    slices = [(wanted_slice(llm), _replicas(llm)) for llm in _models(config)]
    return sum(shape.chips * count for shape, count in slices if shape)


def _surge(app: Config) -> float:
    found = [(llm.get("deployment_config") or {}).get("max_surge_percent", 0) for llm in _models({"applications": [app]})]
    return max((percent / 100 for percent in found), default=0.0)
