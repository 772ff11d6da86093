"""A RayCluster written by hand: one v6e 4x4 slice, as small as KubeRay and the TPU webhook accept."""

from emulation.kubernetes.nodes.api import Json

IMAGE = "us-docker.pkg.dev/emulated/ray/serve:1"


def ray_cluster(name: str = "gemma", *, claim: bool = False, worker_policy: str = "Never") -> Json:
    """`claim`: with a claim for network cards by the template all-netdev."""
    worker = _container("ray-worker", {"cpu": "20", "memory": "200Gi", "google.com/tpu": "4"})
    template: Json = {
        "restartPolicy": worker_policy,
        "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice", "cloud.google.com/gke-tpu-topology": "4x4"},
        "containers": [worker],
    }
    if claim:
        worker["resources"]["claims"] = [{"name": "netdev"}]
        template["resourceClaims"] = [{"name": "netdev", "resourceClaimTemplateName": "all-netdev"}]
    head = _container("ray-head", {"cpu": "2", "memory": "8Gi"})
    head["ports"] = [{"name": port, "containerPort": number} for port, number in _HEAD_PORTS.items()]
    group = {"groupName": "tpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "numOfHosts": 4, "rayStartParams": {}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": {"containers": [head]}}},
            "workerGroupSpecs": [{**group, "template": {"spec": template}}],
        },
    }


def claim_template() -> Json:
    """All network cards of a host, for a pod."""
    request = {"name": "netdev", "exactly": {"deviceClassName": "netdev.google.com", "allocationMode": "All"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "all-netdev"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}


def _container(name: str, resources: Json) -> Json:
    return {"name": name, "image": IMAGE, "resources": {"requests": dict(resources), "limits": dict(resources)}}


def pod(name: str, *, policy: str = "Always", **container: Json | list[Json] | list[str]) -> Json:
    """A pod of one container for a CPU node."""
    only = {"name": "main", "image": IMAGE, **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": policy, "containers": [only]},
    }
