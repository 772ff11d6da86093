"""The job that stages the weights: from the hub to the bucket."""

import hashlib

from kuberay import names
from kuberay.manifests import manifest
from kuberay.manifests.pods import container_security, pod_security, resources
from kuberay.objects import Manifest
from kuberay.spec import Spec

_DEADLINE_S = 6 * 3600
_HUB = "/etc/hub"


def staging_job(spec: Spec) -> Manifest:
    """The job of `python -m apps.weights stage`. Another model, revision or image is another job."""
    command = ["python", "-m", "apps.weights", "stage", spec.model.id, "--to", spec.weights_url]
    command += ["--revision", spec.model.revision] if spec.model.revision else []
    command += ["--region", spec.cloud.region]
    token = spec.hub_token
    mount = [{"name": "token", "mountPath": _HUB, "readOnly": True}] if token else []
    secret = {"secretName": token.name, "items": [{"key": token.key, "path": "token"}], "defaultMode": 0o440} if token else {}
    container = {
        "name": "stage",
        "image": spec.image,
        "command": command,
        # a file, as child processes inherit an environment
        "env": [{"name": "HOME", "value": "/tmp"}, *([{"name": "HF_TOKEN_PATH", "value": f"{_HUB}/token"}] if token else [])],  # noqa: S108
        "resources": resources({"cpu": "2", "memory": "8Gi"}),  # beside the head on one node of the default pool
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mount],  # noqa: S108
    }
    digest = hashlib.sha256(repr((spec.image, command)).encode()).hexdigest()[:8]
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": names.staging_account(spec.name),
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *([{"name": "token", "secret": secret}] if token else [])],
    }
    wanted = {
        "backoffLimit": 4,  # it goes on where it stopped
        "activeDeadlineSeconds": _DEADLINE_S,
        "template": {"metadata": {"labels": names.labels(spec.name, "operation")}, "spec": pod},
    }
    return manifest(spec, "operation", "Job", f"{names.staging_job(spec.name)}-{digest}", spec=wanted)
