"""RayClusters through one of two backends: the official Kubernetes client, or KubeRay's `python_client` where it is installed.

KubeRay's client (1.1.0) logs every error and returns None or False; what it is asked here is checked by asking the API server.
docs/kuberay_client.md lists what of it is worked around.
"""

from typing import Any

from apps.common.errors import OperationError, UserError
from kuberay.api import Api
from kuberay.objects import Manifest


class OfficialClient:
    """Server-side apply: fields that others manage (an autoscaler's replicas) are theirs."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def apply(self, manifest: Manifest, *, force: bool = False) -> None:
        """Make a RayCluster what the manifest describes."""
        self._api.apply(manifest, force=force)

    def suspend(self, name: str, namespace: str, *, suspended: bool) -> None:
        """Take its pods away, or bring them back; the object stays."""
        self._api.patch("RayCluster", name, namespace, {"spec": {"suspend": suspended}})

    def delete(self, name: str, namespace: str) -> None:
        """Delete it, if it is there."""
        self._api.delete("RayCluster", name, namespace)


class KubeRayClient:
    """`python_client.kuberay_cluster_api.RayClusterApi`, behind checks."""

    def __init__(self, api: Api, cluster_api: Any) -> None:
        self._api = api
        self._theirs = cluster_api
        self._theirs.api = api.custom_objects()

    def apply(self, manifest: Manifest, *, force: bool = False) -> None:  # noqa: ARG002 - it knows no managers
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        self._api.apply(manifest, dry_run=True, force=True)  # its own errors would be lost: ask the server first
        if self._api.get("RayCluster", name, namespace) is None:
            done = self._theirs.create_ray_cluster(body=manifest, k8s_namespace=namespace)
        else:
            done = self._theirs.patch_ray_cluster(name=name, ray_patch=manifest, k8s_namespace=namespace)
        if not done or self._api.get("RayCluster", name, namespace) is None:
            raise _failed(name)

    def suspend(self, name: str, namespace: str, *, suspended: bool) -> None:
        change = {"spec": {"suspend": suspended}}
        if not self._theirs.patch_ray_cluster(name=name, ray_patch=change, k8s_namespace=namespace):
            raise _failed(name)

    def delete(self, name: str, namespace: str) -> None:
        there = self._api.get("RayCluster", name, namespace) is not None
        if there and self._theirs.delete_ray_cluster(name=name, k8s_namespace=namespace) is None:
            raise _failed(name)


Clusters = OfficialClient | KubeRayClient


def _failed(name: str) -> OperationError:
    return OperationError(f"RayCluster/{name}: KubeRay's python_client failed, and its log has the reason")


def clusters(api: Api, backend: str) -> Clusters:
    """The backend of that name.

    Raises:
        UserError: it is not installed.
    """
    if backend == "kubernetes":
        return OfficialClient(api)
    try:
        from python_client.kuberay_cluster_api import RayClusterApi
    except ImportError:
        raise UserError(
            "--backend python_client: KubeRay's Python client is not installed; it is in clients/python-client of "
            "github.com/ray-project/kuberay. Without --backend the official Kubernetes client is used"
        ) from None
    # Its constructor takes the kubeconfig's current context, whichever was chosen, and fails where there is no such file.
    return KubeRayClient(api, RayClusterApi.__new__(RayClusterApi))
