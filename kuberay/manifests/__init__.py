"""Manifests as plain dicts, built by pure functions from the spec."""

from typing import Any

from kuberay import names
from kuberay.objects import KINDS, Manifest
from kuberay.spec import Spec


def manifest(spec: Spec, component: str, kind: str, name: str | None = None, /, **content: Any) -> Manifest:
    """An object of this deployment: with its name or another, in its namespace if the kind has one, with its labels."""
    place = {"namespace": spec.namespace} if KINDS[kind].namespaced else {}
    metadata = {"name": name or spec.name, **place, "labels": names.labels(spec.name, component)}
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": metadata, **content}
