"""The job that stages the weights: from the hub to the bucket."""

import hashlib

from kuberay import names
from kuberay.manifests import manifest
from kuberay.manifests.pods import from_secret, hardened
from kuberay.objects import Manifest
from kuberay.spec import Spec

_DEADLINE_S = 6 * 3600


def staging_job(spec: Spec) -> Manifest:
    """The job of `python -m apps.weights stage`. Another model, revision or image is another job."""
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
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": names.staging_account(spec.name),
        "automountServiceAccountToken": False,
        "securityContext": pod_context,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    wanted = {
        "backoffLimit": 4,  # it goes on where it stopped
        "activeDeadlineSeconds": _DEADLINE_S,
        "template": {"metadata": {"labels": names.labels(spec.name, "operation")}, "spec": pod},
    }
    return manifest(spec, "operation", "Job", f"{names.staging_job(spec.name)}-{digest}", spec=wanted)
