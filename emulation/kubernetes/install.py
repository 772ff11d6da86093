"""Give a fresh API server what KubeRay's Helm chart installs, and stand-ins for kinds of GKE and of the Prometheus operator."""

import json
import subprocess
from pathlib import Path

from apps.common.errors import OperationError
from emulation.kubernetes.build import Programs
from emulation.kubernetes.layout import Layout
from emulation.kubernetes.parts import installed_objects

_GKE_KINDS = Path(__file__).parent / "gke"


def install(layout: Layout, programs: Programs) -> None:
    """Raises `OperationError` with kubectl's own message."""
    objects = layout.directory / "operator.json"
    objects.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": installed_objects()}))
    folders = (objects, programs.directory / "rbac", programs.directory / "crd", _GKE_KINDS)
    kubectl = [str(programs.path("kubectl")), f"--kubeconfig={layout.kubeconfig}"]
    # --server-side: they are larger than what `kubectl apply` can remember in an annotation
    apply = ["apply", "--server-side", "--validate=false", *(f"--filename={folder}" for folder in folders)]
    done = subprocess.run([*kubectl, *apply], capture_output=True, text=True)
    if done.returncode:
        raise OperationError(f"kubectl could not install KubeRay: {done.stderr.strip()}")
