"""Names of services and pods, as the cluster's DNS would answer them, in the form of /etc/hosts.

Short names are those of whatever namespace has them: a test uses one.
"""

from collections.abc import Iterator, Sequence

from emulation.kubernetes.nodes.api import Json

_DOMAIN = "cluster.local"


def hosts_file(services: Sequence[Json], pods: Sequence[tuple[Json, str]]) -> str:
    """`pods` with their addresses. A service has those of all its pods, ready or not, as KubeRay's services publish them."""
    lines = ["127.0.0.1 localhost"]
    for pod, ip in pods:
        names = [pod["spec"].get("hostname") or pod["metadata"]["name"], *_names_of_pod(pod)]
        lines.append(" ".join([ip, *names]))
    for service in services:
        for pod, ip in pods:
            if _selects(service, pod):
                meta = service["metadata"]
                lines.append(" ".join([ip, *_spellings(meta["name"], meta["namespace"])]))
    return "\n".join(lines) + "\n"


def _names_of_pod(pod: Json) -> Iterator[str]:
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain"):
        yield from _spellings(f"{spec['hostname']}.{spec['subdomain']}", pod["metadata"]["namespace"])


def _spellings(name: str, namespace: str) -> list[str]:
    return [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.{_DOMAIN}"]


def _selects(service: Json, pod: Json) -> bool:
    selector = service["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels", {})
    same_namespace = service["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same_namespace and bool(selector) and all(labels.get(key) == value for key, value in selector.items())
