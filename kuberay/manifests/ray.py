"""The RayCluster, or the RayService with the same pods in it, and the disruption budgets of its pods."""

from typing import Any

from kuberay import names
from kuberay.manifests import manifest
from kuberay.manifests.pods import OBJECT_STORE_BYTES, head_template, host_template
from kuberay.objects import Manifest
from kuberay.spec import Spec
from kuberay.versions import pinned


def ray_cluster(spec: Spec) -> Manifest:
    """A RayCluster that `serve deploy` is used with."""
    # KubeRay's default leaves running pods as they are when their template changes (kuberay#4140)
    cluster = manifest(spec, "ray", "RayCluster", spec={**_cluster_spec(spec), "upgradeStrategy": {"type": "Recreate"}})
    cluster["metadata"]["annotations"] = {names.SERVE_ANNOTATION: "true"}
    return cluster


def ray_service(spec: Spec, serve_config: str) -> Manifest:
    """A RayService with the text of a Serve config: KubeRay deploys it, and again after the loss of the head."""
    wanted = {
        # The default would start a second cluster beside the first for any change: a second slice, or a wait for ever.
        "upgradeStrategy": {"type": "None"},
        "serveConfigV2": serve_config,
        "rayClusterConfig": _cluster_spec(spec),
    }
    return manifest(spec, "ray", "RayService", spec=wanted)


def disruption_budgets(spec: Spec) -> list[Manifest]:
    """No pod is evicted while it can be helped: with a host goes its slice, with the head all, and 20 minutes of compiling."""
    # numbers, as Kubernetes knows no scale of a RayCluster; of several slices one may go
    budgets = (
        ("head", {names.NODE_TYPE_LABEL: "head"}, 1),
        ("hosts", {names.GROUP_LABEL: names.TPU_GROUP}, spec.slices.shape.hosts * max(1, spec.slices.count - 1)),
    )
    return [
        manifest(
            spec,
            "operation",
            "PodDisruptionBudget",
            f"{spec.name}-{name}",
            spec={"minAvailable": number, "selector": {"matchLabels": {**names.pod_labels(spec.name), **labels}}},
        )
        for name, labels, number in budgets
    ]


def _cluster_spec(spec: Spec) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "rayVersion": pinned("ray"),  # without it KubeRay's probes need wget, and token auth is refused
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},  # nothing but Ray's own runs on the head
            "template": head_template(spec),
        },
        "workerGroupSpecs": [
            {
                "groupName": names.TPU_GROUP,
                **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), spec.slices.count),
                "numOfHosts": spec.slices.shape.hosts,
                "scaleStrategy": {},  # KubeRay adds it where it is missing, and is from then on in the way of every apply
                "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
                "template": host_template(spec),
            }
        ],
    }
    if spec.auth == "token":
        wanted["authOptions"] = {"mode": "token"}  # KubeRay makes the token
        if spec.kind == "RayService":  # whose clusters have names that nobody knows before, and so would their secrets
            wanted["authOptions"]["secretName"] = names.service_token_secret(spec.name)
    if redis := spec.fault_tolerance:
        # named, so that a cluster that is made anew finds its state again
        options: dict[str, Any] = {"redisAddress": redis.address, "externalStorageNamespace": f"{spec.namespace}-{spec.name}"}
        if redis.password:
            reference = {"name": redis.password.name, "key": redis.password.key}
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
        wanted["gcsFaultToleranceOptions"] = options
    return wanted
