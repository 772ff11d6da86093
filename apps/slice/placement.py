"""Find the slice that an LLM config asks for, and place its replica on one through Ray's resources."""

from collections.abc import Mapping
from typing import Any

from apps.slice.topology import Slice, slice_of


def wanted_slice(config: Mapping[str, Any]) -> Slice | None:
    """The slice that an LLM config asks for; None for a config without one.

    `experimental_configs.emulated_slice` names a slice for an engine that does not compute on it: the laptop's CPU engine on
    an emulated slice is placed, reserved and watched as an engine on TPU is.

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


def on_slice(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its replica placed on worker 0 of a slice that no other replica has."""
    shape = wanted_slice(config)
    if shape is None:
        return config
    deployment = dict(config.get("deployment_config") or {})
    actor = dict(deployment.get("ray_actor_options") or {})
    actor["resources"] = {**(actor.get("resources") or {}), shape.head_resource: 1}
    return {**config, "deployment_config": {**deployment, "ray_actor_options": actor}}
