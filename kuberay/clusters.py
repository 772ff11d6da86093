"""RayClusters through KubeRay's `python_client`, where it is installed, in the place of the official Kubernetes client.

KubeRay's client (1.1.0) logs every error and returns None or False; what it is asked here is checked by asking the API server.
docs/kuberay_client.md lists what of it is worked around.
"""

from dataclasses import dataclass
from typing import Any

from apps.common.errors import OperationError, UserError
from kuberay.api import Api
from kuberay.objects import Manifest


@dataclass(frozen=True, kw_only=True)
class KubeRayApi(Api):
    """An `Api` that writes RayClusters by `python_client.kuberay_cluster_api.RayClusterApi`, behind checks."""

    theirs: Any

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> Manifest:
        if manifest["kind"] != "RayCluster":
            return super().apply(manifest, dry_run=dry_run, force=force)
        # first, as its own errors would be lost; and it takes any field, as it knows no managers
        planned = super().apply(manifest, dry_run=True, force=True)
        if dry_run:
            return planned
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        if self.get("RayCluster", name, namespace) is None:
            done = self.theirs.create_ray_cluster(body=manifest, k8s_namespace=namespace)
        else:
            done = self.theirs.patch_ray_cluster(name=name, ray_patch=manifest, k8s_namespace=namespace)
        if not done or self.get("RayCluster", name, namespace) is None:
            raise _failed(name)
        return planned

    def patch(self, kind: str, name: str, namespace: str, change: Manifest) -> None:
        if kind != "RayCluster":
            super().patch(kind, name, namespace, change)
        elif not self.theirs.patch_ray_cluster(name=name, ray_patch=change, k8s_namespace=namespace):
            raise _failed(name)

    def delete(self, kind: str, name: str, namespace: str | None) -> None:
        if kind != "RayCluster":
            super().delete(kind, name, namespace)
        elif self.get(kind, name, namespace) and self.theirs.delete_ray_cluster(name=name, k8s_namespace=namespace) is None:
            raise _failed(name)


def _failed(name: str) -> OperationError:
    return OperationError(f"RayCluster/{name}: KubeRay's python_client failed, and its log has the reason")


def with_backend(api: Api, backend: str) -> Api:
    """The cluster through the backend of that name. Raises `UserError` where it is not installed."""
    if backend == "kubernetes":
        return api
    try:
        from python_client.kuberay_cluster_api import RayClusterApi
    except ImportError:
        raise UserError(
            "--backend python_client: KubeRay's Python client is not installed; it is in clients/python-client of "
            "github.com/ray-project/kuberay. Without --backend the official Kubernetes client is used"
        ) from None
    # Its constructor takes the kubeconfig's current context, whichever was chosen, and fails where there is no such file.
    theirs = RayClusterApi.__new__(RayClusterApi)
    theirs.api = api.custom_objects()
    return KubeRayApi(**vars(api), theirs=theirs)
