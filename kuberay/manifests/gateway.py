"""An address that people reach: Gateway, routes, health checks and timeouts of GKE's load balancer.

The API is open to whoever has a key, which the guard checks. Chat and dashboard are there with Google's sign-in (IAP) alone.
"""

from typing import Any

from apps.common.settings import LONGEST_REQUEST_S
from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import KINDS, Manifest
from kuberay.spec import Spec

_DRAIN_S = 60
_HEALTHZ = {"serve": "/-/healthz", "dashboard": "/api/gcs_healthz"}  # HAProxy's, where requests are taken; and Ray's


def gateway(spec: Spec) -> list[Manifest]:
    """Everything for `expose`; nothing without it."""
    expose = spec.expose
    if expose is None:
        return []
    own = {"allowedRoutes": {"namespaces": {"from": "Same"}}}
    listeners = [
        {"name": name, "protocol": "HTTPS", "port": 443, "hostname": host, **own} for name, host in expose.hosts.items()
    ]
    made = manifest(spec, "gateway", "Gateway", spec={"gatewayClassName": expose.gateway_class, "listeners": listeners})
    certificates = expose.certificate_map or names.certificate_map(spec.name)
    made["metadata"]["annotations"] = {names.CERTIFICATES_ANNOTATION: certificates}
    objects = [made, *_backend(spec, "api", "serve", "/v1", expose.host)]
    if expose.iap:
        objects += _backend(spec, "chat", "serve", "/chat", expose.host, iap=True)
    if expose.dashboard:
        objects += _backend(spec, "dashboard", "dashboard", "/", expose.dashboard, iap=True)
    return objects


def _backend(spec: Spec, name: str, port: str, path: str, host: str, *, iap: bool = False) -> list[Manifest]:
    """A service of its own, as GKE's policies are for a whole service."""
    own = f"{spec.name}-{name}"
    listener = "dashboard" if name == "dashboard" else "api"
    selector = names.ray_pods(spec.name) | ({names.NODE_TYPE_LABEL: "head"} if port == "dashboard" else {})
    number = names.PORTS[port]
    service = {"selector": selector, "ports": [{"name": port, "protocol": "TCP", "port": number, "targetPort": number}]}
    this = {"group": "", "kind": "Service", "name": own}
    match = {"path": {"type": "PathPrefix", "value": path}}
    parent = {"group": KINDS["Gateway"].group, "kind": "Gateway", "name": spec.name, "sectionName": listener}
    route = {
        "parentRefs": [parent],
        "hostnames": [host],
        "rules": [{"matches": [match], "backendRefs": [{**this, "port": number, "weight": 1}]}],
    }
    check = {"portSpecification": "USE_FIXED_PORT", "port": number, "requestPath": _HEALTHZ[port]}
    health = {"config": {"type": "HTTP", "httpHealthCheck": check}}
    backend: dict[str, Any] = {"timeoutSec": LONGEST_REQUEST_S, "connectionDraining": {"drainingTimeoutSec": _DRAIN_S}}
    backend |= {"iap": {"enabled": True}} if iap else {}
    return [
        manifest(spec, "gateway", "Service", own, spec=service),
        manifest(spec, "gateway", "HTTPRoute", own, spec=route),
        manifest(spec, "gateway", "GCPBackendPolicy", own, spec={"default": backend, "targetRef": this}),
        manifest(spec, "gateway", "HealthCheckPolicy", own, spec={"default": health, "targetRef": this}),
    ]
