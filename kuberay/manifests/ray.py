"""The RayCluster, or the RayService with the same pods in it."""

from typing import Any

from kuberay import names
from kuberay.manifests.pods import OBJECT_STORE_BYTES, head_template, host_template
from kuberay.spec import Spec
from kuberay.versions import pinned

Manifest = dict[str, Any]
API_VERSION = "ray.io/v1"


def ray_cluster(spec: Spec) -> Manifest:
    """A RayCluster that `serve deploy` is used with."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RayCluster",
        "metadata": {**_metadata(spec), "annotations": {names.SERVE_ANNOTATION: "true"}},
        # KubeRay's default leaves running pods as they are when their template changes (kuberay#4140)
        "spec": {**_cluster_spec(spec), "upgradeStrategy": {"type": "Recreate"}},
    }


def ray_service(spec: Spec, serve_config: str) -> Manifest:
    """A RayService with the text of a Serve config: KubeRay deploys it, and again after the loss of the head."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": _metadata(spec),
        "spec": {
            # The default would start a second cluster beside the first for any change: a second slice, or a wait for ever.
            "upgradeStrategy": {"type": "None"},
            "serveConfigV2": serve_config,
            "rayClusterConfig": _cluster_spec(spec),
        },
    }


def _metadata(spec: Spec) -> Manifest:
    return {"name": spec.name, "namespace": spec.namespace, "labels": names.labels(spec.name, "ray")}


def _cluster_spec(spec: Spec) -> Manifest:
    found: Manifest = {
        "rayVersion": pinned("ray"),  # without it KubeRay's probes need wget, and token auth is refused
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},  # nothing but Ray's own runs on the head
            "template": head_template(spec),
        },
        "workerGroupSpecs": [
            {
                "groupName": names.TPU_GROUP,
                "replicas": spec.slices.count,
                "minReplicas": spec.slices.count,
                "maxReplicas": spec.slices.count,
                "numOfHosts": spec.slices.shape.hosts,
                "scaleStrategy": {},  # KubeRay adds it where it is missing, and is from then on in the way of every apply
                "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
                "template": host_template(spec),
            }
        ],
    }
    if spec.auth == "token":
        found["authOptions"] = {"mode": "token"}  # KubeRay makes the token
        if spec.kind == "RayService":  # whose clusters have names that nobody knows before, and so would their secrets
            found["authOptions"]["secretName"] = names.service_token_secret(spec.name)
    if spec.fault_tolerance:
        found["gcsFaultToleranceOptions"] = _fault_tolerance(spec)
    return found


def _fault_tolerance(spec: Spec) -> Manifest:
    redis = spec.fault_tolerance
    assert redis
    # named, so that a cluster that is made anew finds its state again
    found: Manifest = {"redisAddress": redis.address, "externalStorageNamespace": f"{spec.namespace}-{spec.name}"}
    if redis.password:
        reference = {"name": redis.password.name, "key": redis.password.key}
        found["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return found
