"""Whether a GKE cluster that is there already has what a deployment needs."""

import re
from typing import Any

from kuberay.spec import Spec
from kuberay.versions import FIRST_DRANET_GKE


def cluster_problem(found: Any, spec: Spec) -> str | None:
    """The first thing that is missing, and what to do; None where nothing is."""
    addons = found.get("addonsConfig") or {}
    update = f"gcloud container clusters update {spec.cloud.cluster}"
    if not (addons.get("rayOperatorConfig") or {}).get("enabled"):
        return f"has no RayOperator add-on: `{update} --update-addons=RayOperator=ENABLED`"
    if not (found.get("workloadIdentityConfig") or {}).get("workloadPool"):
        return f"has no Workload Identity: `{update} --workload-pool={spec.cloud.project}.svc.id.goog`"
    if spec.slices.network != "dranet":
        return None
    if (found.get("networkConfig") or {}).get("datapathProvider") != "ADVANCED_DATAPATH":
        return "has no Dataplane V2, which cannot be added later: make another cluster, or set slices.network: none"
    version = str(found.get("currentMasterVersion", ""))
    if version and numbers(version) < numbers(FIRST_DRANET_GKE):
        return f"is {version}, DRANET for TPU begins with {FIRST_DRANET_GKE}: upgrade it (`{update} --help`)"
    return None


def numbers(version: str) -> tuple[int, ...]:
    """A GKE version such as `1.35.2-gke.1842000` as numbers that compare."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
