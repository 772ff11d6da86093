"""Run all checks, and show what they found; one that fails is a finding too, and hides none of the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from apps.common.errors import BundleError
from kuberay.api import ForbiddenError
from kuberay.doctor import ClusterSnapshot, Diagnosis, deployment, platform

Check = Callable[[ClusterSnapshot], Iterable[Diagnosis]]
_CHECKS: dict[str, Check] = {
    "GKE version": platform.gke_version,
    "KubeRay's types": platform.kuberay_types,
    "KubeRay operator": platform.operator,
    "TPU webhook": platform.tpu_webhook,
    "DRANET": platform.dranet,
    "TPU nodes": platform.nodes,
    "rights": deployment.rights,
    "pods": deployment.readiness,
    "status.state": deployment.stale_state,
    "image": deployment.old_images,
    "orphaned hosts": deployment.orphaned_hosts,
    "slice": deployment.broken_slices,
    "name": deployment.long_name,
    "needed objects": deployment.needed_objects,
    "quota": deployment.quotas,
    "Ray version": deployment.ray_version,
    "image versions": deployment.image_versions,
    "head": deployment.lone_head,
}
_MARKS = {"error": "✗", "warning": "!", "unknown": "?", "ok": "✓"}
_ORDER = list(_MARKS)


def examine(snapshot: ClusterSnapshot) -> list[Diagnosis]:
    """Every finding, the worst first."""
    diagnoses = [diagnosis for name, check in _CHECKS.items() for diagnosis in _run(name, check, snapshot)]
    return sorted(diagnoses, key=lambda diagnosis: _ORDER.index(diagnosis.severity))


def report(diagnoses: Sequence[Diagnosis]) -> str:
    """The findings as text, in the order given: the mark, the evidence, what to do, where it is described."""
    lines = []
    for diagnosis in diagnoses:
        lines.append(f"{_MARKS[diagnosis.severity]} {diagnosis.check}: {diagnosis.evidence}")
        lines += [f"    fix: {diagnosis.fix}"] if diagnosis.fix else []
        lines += [f"    see: {diagnosis.link}"] if diagnosis.link and diagnosis.severity != "ok" else []
    return "\n".join(lines)


def _run(name: str, check: Check, snapshot: ClusterSnapshot) -> list[Diagnosis]:
    try:
        diagnoses = list(check(snapshot))
    except ForbiddenError as error:
        diagnoses = [Diagnosis("unknown", f"you may not see it: {error}")]
    except BundleError as error:
        diagnoses = [Diagnosis("unknown", str(error))]
    return [replace(diagnosis, check=diagnosis.check or name) for diagnosis in diagnoses]
