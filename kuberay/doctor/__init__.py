"""What is wrong with a deployment or the cluster under it: known troubles, looked for by their signs. Reads only.

Here: what a check inspects, and what it finds.
"""

from dataclasses import dataclass
from typing import Literal

from kuberay.api import Api
from kuberay.spec import Spec
from kuberay.state import State

Severity = Literal["ok", "warning", "error", "unknown"]


@dataclass(frozen=True)
class Diagnosis:
    """`evidence` is what was seen, `fix` what to do, `link` where the trouble is described. `unknown`: it could not be seen.

    `check` is what was inspected; where a check leaves it out, it is that check's own name.
    """

    severity: Severity
    evidence: str
    fix: str | None = None
    link: str | None = None
    check: str = ""


@dataclass(frozen=True)
class ClusterSnapshot:
    """A deployment as it is now, and the cluster that it is in."""

    api: Api
    spec: Spec
    state: State


KUBERAY_ISSUE = "https://github.com/ray-project/kuberay/issues/{}"
GKE_RAY = "https://docs.cloud.google.com/kubernetes-engine/docs/add-on/ray-on-gke/how-to/enable-ray-on-gke"
GKE_DRANET = "https://docs.cloud.google.com/kubernetes-engine/docs/how-to/allocate-network-resources-dra"
TPU_WEBHOOK = "https://github.com/ai-on-gke/kuberay-tpu-webhook"
GCS_FAULT_TOLERANCE = "https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/kuberay-gcs-ft.html"
