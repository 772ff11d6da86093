"""What keeps it running: disruption budget, and the job that stages the weights."""

import hashlib
from typing import Any

from kuberay import names
from kuberay.manifests.pods import from_secret, hardened
from kuberay.spec import Spec

Manifest = dict[str, Any]
_STAGING_DEADLINE_S = 6 * 3600


def disruption_budget(spec: Spec) -> Manifest:
    """No host is evicted while it can be helped: with one host the whole slice goes, and 20 minutes of compiling."""
    selector = {"matchLabels": {**names.pod_labels(spec.name), names.GROUP_LABEL: names.TPU_GROUP}}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(spec, f"{spec.name}-hosts"),
        # a number, as Kubernetes knows no scale of a RayCluster; of several slices one may go
        "spec": {"minAvailable": spec.slices.shape.hosts * max(1, spec.slices.count - 1), "selector": selector},
    }


def staging_job(spec: Spec) -> Manifest:
    """`python -m apps.weights stage`: from the hub to the bucket. Another model, revision or image is another job."""
    command = ["python", "-m", "apps.weights", "stage", spec.model.id, "--to", spec.weights_url]
    command += ["--revision", spec.model.revision] if spec.model.revision else []
    command += ["--region", spec.cloud.region]
    pod_context, container_context = hardened()
    resources = {"cpu": "4", "memory": "8Gi"}
    container = {
        "name": "stage",
        "image": spec.image,
        "command": command,
        "env": [{"name": "HOME", "value": "/tmp"}, *([from_secret("HF_TOKEN", spec.hub_token)] if spec.hub_token else [])],  # noqa: S108
        "resources": {"requests": resources, "limits": resources},
        "securityContext": container_context,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    digest = hashlib.sha256(repr((spec.image, command)).encode()).hexdigest()[:8]
    metadata = _metadata(spec, f"{names.staging_job(spec.name)}-{digest}")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 4,  # it goes on where it stopped
            "activeDeadlineSeconds": _STAGING_DEADLINE_S,
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": names.staging_account(spec.name),
                    "automountServiceAccountToken": False,
                    "securityContext": pod_context,
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }


def _metadata(spec: Spec, name: str) -> Manifest:
    return {"name": name, "namespace": spec.namespace, "labels": names.labels(spec.name, "operation")}
