"""What applying a spec would change, and applying it: object by object, in order, unchanged ones left alone."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from apps.common.errors import OperationError
from kuberay.api import Api, ApiError, ConflictError, ForbiddenError
from kuberay.names import MANAGER
from kuberay.objects import KINDS, Manifest, parse_quantity, pod_templates, title

Verb = Literal["create", "change", "unchanged", "conflict", "forbidden", "hidden"]
"""`conflict`: somebody else has set fields of it; `forbidden`: it would change and this user may not; `hidden`: of the whole
cluster, and not for this user to see."""
_SERVERS_OWN = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink", "finalizers")
_OLD_KUBERAY = "field not declared in schema"
_IMMUTABLE = ("Job",)
"""A job's template cannot change; a job that is there under its name, which its content decides, is the one that is wanted."""


@dataclass(frozen=True)
class Change:
    """One object: what is there (None if nothing), what would be, and what applying it means."""

    verb: Verb
    manifest: Manifest
    before: Manifest | None
    after: Manifest
    note: str = ""
    """What has to be known about it."""
    tried: bool = True
    """False where its namespace is still to come, and the server could not be asked."""

    def diff(self) -> str:
        """A unified diff of the object as YAML; empty where nothing would change."""
        return "" if self.verb in ("unchanged", "hidden") else diff(self.before, self.after)


def plan(api: Api, manifests: Iterable[Manifest], *, force: bool = False) -> list[Change]:
    """What would change, by a dry run of the API server. Raises `ApiError` where the server refuses an object.

    `force`: fields that somebody else has set are taken over.
    """
    changes: list[Change] = []
    namespaces_to_come: set[str] = set()
    for manifest in manifests:
        if manifest["metadata"].get("namespace") in namespaces_to_come:  # the server cannot try what is in none
            change = Change("create", manifest, None, manifest, tried=False)
        else:
            change = _plan_object(api, manifest, force=force)
        if manifest["kind"] == "Namespace" and change.verb == "create":
            namespaces_to_come.add(manifest["metadata"]["name"])
        changes.append(change)
    return changes


def apply(api: Api, change: Change, *, force: bool = False) -> None:
    """Apply one object.

    Raises:
        ApiError: the server refuses it.
        OperationError: it would change something that this user may not change.
    """
    if not change.tried:
        change = _plan_object(api, change.manifest, force=force)
    if change.verb in ("unchanged", "hidden"):
        return
    if change.verb == "forbidden":
        raise OperationError(
            f"{title(change.manifest)} differs from the spec, and you may not change it: someone who may has to run "
            "`scripts/cluster.py apply` first"
        )
    api.apply(change.manifest, force=force)


def restarts_pods(change: Change) -> bool:
    """True where KubeRay will delete all pods of a running cluster and make new ones (upgradeStrategy Recreate)."""
    if change.verb != "change" or change.manifest["kind"] != "RayCluster" or change.before is None:
        return False
    return list(pod_templates(change.before)) != list(pod_templates(change.after))


def _plan_object(api: Api, manifest: Manifest, *, force: bool) -> Change:
    before = _read(api, manifest)
    if before is not None and (manifest["kind"] in _IMMUTABLE or _of_others(before)):
        return Change("unchanged", manifest, before, before)
    try:
        after = api.apply(manifest, dry_run=True, force=force)
    except ForbiddenError:
        return Change(_verb_of_forbidden(manifest, before), manifest, before, manifest)
    except ConflictError as error:
        after = api.apply(manifest, dry_run=True, force=True)
        return Change("conflict", manifest, before, after, f"{error}\n--force takes the fields over")
    except ApiError as error:
        if _OLD_KUBERAY not in str(error) or manifest["kind"] != "RayCluster":
            raise
        return _for_an_old_kuberay(api, manifest, str(error), force=force)
    verb: Verb = "create" if before is None else "unchanged" if _bare(before) == _bare(after) else "change"
    return Change(verb, manifest, before, after)


def _for_an_old_kuberay(api: Api, manifest: Manifest, error: str, *, force: bool) -> Change:
    """The change without what KubeRay before 1.6 does not know, or why there is none."""
    if ".spec.authOptions" in error:
        raise OperationError(
            "this KubeRay (before 1.5) knows no token, so everybody in the cluster's network could run code on Ray: install "
            "1.6 or later (docs/gke.md#an-older-kuberay), or set `auth: none`"
        )
    if "upgradeStrategy" not in manifest["spec"]:
        raise OperationError(f"this KubeRay is too old: install 1.6 or later (docs/gke.md#an-older-kuberay). {error}")
    spec = {key: value for key, value in manifest["spec"].items() if key != "upgradeStrategy"}
    change = _plan_object(api, {**manifest, "spec": spec}, force=force)
    return replace(change, note="this KubeRay (before 1.6) leaves running pods as they are: after a change, park and unpark")


def _of_others(before: Manifest) -> bool:
    """True for a namespace that was there before: its security level is its owner's, and `down` must leave it."""
    labels = before["metadata"].get("labels") or {}
    return before["kind"] == "Namespace" and labels.get("app.kubernetes.io/managed-by") != MANAGER


def _verb_of_forbidden(manifest: Manifest, before: Manifest | None) -> Verb:
    if before is None:
        return "forbidden" if KINDS[manifest["kind"]].namespaced else "hidden"
    return "unchanged" if _contains(before, manifest) else "forbidden"


def _read(api: Api, manifest: Manifest) -> Manifest | None:
    metadata = manifest["metadata"]
    try:
        return api.get(manifest["kind"], metadata["name"], metadata.get("namespace"))
    except ForbiddenError:
        if KINDS[manifest["kind"]].namespaced:
            raise
        return None  # what belongs to the whole cluster may be hidden from its users
    except ApiError as error:
        raise error.about(title(manifest)) from error


def _contains(live: Any, wanted: Any) -> bool:
    """True when a live object has everything that a manifest has; what the server added does not count."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and _contains(live[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_contains, live, wanted))
    return live == wanted or _same_quantity(live, wanted)


def _same_quantity(live: Any, wanted: Any) -> bool:
    try:
        return parse_quantity(live) == parse_quantity(wanted)
    except ValueError:
        return False


def _bare(manifest: Manifest | None) -> Manifest:
    """The object without what the server writes."""
    if manifest is None:
        return {}
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _SERVERS_OWN}
    return {**{key: value for key, value in manifest.items() if key != "status"}, "metadata": metadata}


def diff(before: Manifest | None, after: Manifest | None) -> str:
    """A unified diff of an object as YAML."""
    name = title(before or after or {})
    texts = [yaml.safe_dump(_bare(manifest)) if manifest else "" for manifest in (before, after)]
    old, new = (text.splitlines(keepends=True) for text in texts)
    return "".join(difflib.unified_diff(old, new, f"{name} (there)", f"{name} (wanted)"))
