"""What a platform team adds to the manifests: labels, tolerations, a queue, patches. What this project sets itself stays."""

import copy
from typing import Any

from apps.common.errors import UserError
from kuberay import names
from kuberay.objects import Manifest, pod_templates, title
from kuberay.platform_spec import Overlay
from kuberay.spec import Spec


def overlaid(spec: Spec, manifests: list[Manifest]) -> list[Manifest]:
    """The manifests with the spec's overlay. Raises `UserError` for a patch of no object, or that makes another one of it."""
    overlay = spec.overlay
    if overlay == Overlay():
        return manifests
    there = [title(manifest) for manifest in manifests]
    if unknown := [name for name in overlay.patches if name not in there]:
        raise UserError(f"overlay.patches: there is no {', '.join(unknown)}; there are {', '.join(there)}")
    return [_overlaid(overlay, copy.deepcopy(manifest)) for manifest in manifests]


def _overlaid(overlay: Overlay, manifest: Manifest) -> Manifest:
    _add_metadata(overlay, manifest["metadata"])
    for template in pod_templates(manifest):
        _add_metadata(overlay, template.setdefault("metadata", {}))
        _add_to_pod(overlay, template["spec"])
    if overlay.kueue and manifest["kind"] in ("RayCluster", "RayService"):
        manifest["metadata"]["labels"][names.QUEUE_LABEL] = overlay.kueue.queue
        if overlay.kueue.topology:
            *_, hosts = pod_templates(manifest)
            hosts["metadata"]["annotations"][names.QUEUE_TOPOLOGY] = overlay.kueue.topology
    patched: Manifest = _merged(manifest, overlay.patches.get(title(manifest), {}))
    if _identity(patched) != _identity(manifest):
        raise UserError(
            f"overlay.patches: {title(manifest)}: apiVersion, kind, metadata.name and metadata.namespace make it this object, "
            "so a patch must leave them as they are"
        )
    return patched


def _identity(manifest: Manifest) -> tuple[Any, ...]:
    metadata = manifest.get("metadata")
    own = [metadata.get(key) for key in ("name", "namespace")] if isinstance(metadata, dict) else []
    return manifest.get("apiVersion"), manifest.get("kind"), *own


def _add_metadata(overlay: Overlay, metadata: dict[str, Any]) -> None:
    for key, added in (("labels", overlay.labels), ("annotations", overlay.annotations)):
        if added:
            metadata[key] = {**added, **metadata.get(key, {})}


def _add_to_pod(overlay: Overlay, pod: dict[str, Any]) -> None:
    if overlay.tolerations:
        pod["tolerations"] = [*pod.get("tolerations", []), *overlay.tolerations]
    if overlay.priority_class:
        pod["priorityClassName"] = overlay.priority_class
    if overlay.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in overlay.pull_secrets]
    for container in (*pod.get("initContainers", []), *pod["containers"]) if overlay.env else ():
        own = {variable["name"] for variable in container.get("env", [])}
        added = [{"name": name, "value": value} for name, value in overlay.env.items() if name not in own]
        container["env"] = [*container.get("env", []), *added]


def _merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386): null removes a key."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged
