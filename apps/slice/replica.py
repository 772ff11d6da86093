"""A replica's slice from its LLM config: which one it needs, what it asks Ray for, and taking it when the replica starts."""

from collections.abc import Mapping
from typing import Any

from apps.slice.topology import Slice, slice_of

DEFAULT_TIMEOUT_S = 1800.0
"""Longest wait for a slice's hosts: a node pool that scales from zero takes about 15 minutes."""


def wanted_slice(config: Mapping[str, Any]) -> Slice | None:
    """The slice that an LLM config asks for; None for a config without one.

    `experimental_configs.emulated_slice` names a slice for an engine that does not compute on it: the laptop's CPU engine on
    an emulated slice is placed, held and watched as an engine on TPU is.

    Raises:
        UserError: no such generation or topology.
    """
    asked = (config.get("experimental_configs") or {}).get("emulated_slice")
    if asked:
        return slice_of(asked["accelerator_type"], asked["topology"])
    accelerator = config.get("accelerator_config") or {}
    if accelerator.get("kind") != "tpu":
        return None
    return slice_of(config["accelerator_type"], accelerator["topology"])


def head_resource(shape: Slice) -> str:
    """Ray's resource of which each slice has one, on its worker 0."""
    return f"TPU-{shape.pod_type}-head"


def on_slice(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its replica placed on worker 0 of a slice that no other replica has."""
    shape = wanted_slice(config)
    if shape is None:
        return config
    deployment = dict(config.get("deployment_config") or {})
    actor = dict(deployment.get("ray_actor_options") or {})
    actor["resources"] = {**(actor.get("resources") or {}), head_resource(shape): 1}
    return {**config, "deployment_config": {**deployment, "ray_actor_options": actor}}


async def take_slice(config: Mapping[str, Any]) -> Any:
    """Hold the slice of a config and watch it: a `Watchdog`, or None for a config without a slice.

    Raises:
        OperationError: as `hold_slice`.
    """
    shape = wanted_slice(config)
    if shape is None:
        return None
    from apps.slice.claim import hold_slice
    from apps.slice.watchdog import Watchdog

    bundle = (config.get("placement_group_config") or {}).get("bundle_per_worker") or {}
    timeout_s = (config.get("experimental_configs") or {}).get("slice_timeout_s", DEFAULT_TIMEOUT_S)
    return Watchdog(await hold_slice(shape, bundle, timeout_s))
