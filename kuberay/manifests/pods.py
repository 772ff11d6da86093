"""Pod templates of Ray's head and of the TPU hosts: image, environment, volumes, rights, probes."""

from collections.abc import Sequence

from apps.common.settings import OTLP_ENDPOINT, RAY_TOKEN, SERVE_HAPROXY, SERVE_TRACES
from apps.slice.models import recorded_shape
from kuberay import names
from kuberay.objects import Manifest, parse_quantity
from kuberay.spec import Spec
from kuberay.versions import pinned

WEIGHTS = "/weights"
CACHE = "/cache"
KEYS = "/etc/guard"
_SERVE_CONFIG = "/etc/serve"
USER = 1000
OBJECT_STORE_BYTES = 16 * 1024**3  # what the hosts exchange of the weights; Ray would take 30 % of the memory
_DISK = "10Gi"  # logs, and a host's compiled programs; Autopilot gives a pod that asks for none 1 GiB
_DRAIN_S = 20  # a spot host has 30 s, of which GKE keeps some
_GRACE_S = 60
_MODEL_MARGIN = 1.1  # tokenizer, templates and the vision tower beside the weights that the record counts
_BF16_BYTES = 2


def head_template(spec: Spec) -> Manifest:
    """The pod of the head, which serves no model: no TPU, no weights."""
    wanted = {"cpu": spec.head.cpu, "memory": spec.head.memory}
    container = {**_container(spec, "ray-head", wanted), "ports": [_port(name) for name in names.PORTS]}
    template = _template(spec, container, _volumes(spec))
    template["spec"]["initContainers"] = [_version_check(spec)]
    if spec.kind == "RayCluster" and not spec.fault_tolerance:  # otherwise KubeRay, or Ray itself, brings the apps back
        template["spec"]["containers"].append(_redeploy(spec))
        config = {"name": names.serve_config_map(spec.name), "optional": True}
        template["spec"]["volumes"].append({"name": "serve-config", "configMap": config})
    return template


def host_template(spec: Spec) -> Manifest:
    """The pod of one host of a slice. The hosts of a slice live and die together, so none of them is restarted in its place."""
    shape = spec.slices.shape
    wanted = {"cpu": spec.slices.cpu, "memory": spec.slices.memory, names.TPU_RESOURCE: str(shape.chips_per_host)}
    container = _container(spec, "ray-worker", wanted)
    variables = {**_TPU_ENVIRONMENT, "TPU_ACCELERATOR_TYPE": shape.pod_type}  # name and number are the webhook's to give
    container["env"] += [_plain(name, value) for name, value in variables.items()]
    container["env"] += [
        {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        _plain("VBAR_CONTROL_SERVICE_URL", "$(NODE_IP):8353"),
    ]
    container["ports"] = [_port("serve"), _port("metrics")]
    container["volumeMounts"] += [{"name": "weights", "mountPath": WEIGHTS}, {"name": "cache", "mountPath": CACHE}]
    if spec.slices.network == "dranet":
        container["resources"]["claims"] = [{"name": "netdev"}]
    volumes = [*_volumes(spec), _weights_volume(spec), {"name": "cache", "emptyDir": {}}]
    template = _template(spec, container, volumes, root=spec.slices.run_as_root, capabilities=spec.slices.capabilities)
    template["spec"] |= {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "nodeSelector": _node_selector(spec),
        "tolerations": [{"key": names.TPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
    }
    if spec.slices.network == "dranet":
        claim = {"name": "netdev", "resourceClaimTemplateName": names.claim_template(spec.name)}
        template["spec"]["resourceClaims"] = [claim]
    return template


def resources(wanted: dict[str, str]) -> Manifest:
    """A container's resources: what it gets is what it asks for, and room for its logs on the node's disk."""
    return {"requests": {**wanted, "ephemeral-storage": _DISK}, "limits": dict(wanted)}


def pod_security(*, root: bool = False) -> Manifest:
    """A pod's security context: no root, unless it is wanted."""
    user = {"runAsUser": 0} if root else {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER}
    return {**user, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security(capabilities: Sequence[str] = ()) -> Manifest:
    """A container's security context: no privilege but these, a root file system that nobody writes."""
    rights = {"drop": ["ALL"], **({"add": list(capabilities)} if capabilities else {})}
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": rights}


_TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "tpu,cpu",  # `tpu` alone breaks the loading of weights
    "TPU_MULTIHOST_BACKEND": "ray",  # without it vLLM TPU silently runs on one host only
    "TPU_BACKEND_TYPE": "jax",
    "ENABLE_PJRT_COMPATIBILITY": "true",
}


def _environment(spec: Spec) -> list[Manifest]:
    values = {
        "HOME": "/tmp",  # noqa: S108 - the one place that may be written
        "WEIGHTS_URL": spec.weights_url,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # HAProxy knows at once; Ray's 30 s are for load balancers
        **SERVE_HAPROXY,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(_DRAIN_S),  # what `ray start` does with SIGTERM
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",  # in a pod Ray else reports an empty disk, and no alert could fire
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    values |= {OTLP_ENDPOINT: spec.traces, **SERVE_TRACES} if spec.traces else {}
    return [_plain(name, value) for name, value in values.items()]


def _container(spec: Spec, name: str, wanted: dict[str, str]) -> Manifest:
    keys = [{"name": "api-keys", "mountPath": KEYS, "readOnly": True}] if spec.api_keys else []
    return {
        "name": name,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(spec),
        "resources": resources(wanted),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *keys],  # noqa: S108
        "readinessProbe": _probe(period_s=5, failures=3),
        "livenessProbe": _probe(period_s=10, failures=30),  # a compiling host may be silent for minutes
    }


def _version_check(spec: Spec) -> Manifest:
    """Check the image: with another Ray or vLLM the pod stops here, with the reason in its status. All pods have one image."""
    return {
        "name": names.VERSION_CHECK,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "runtime_env.image", "versions"],
        "args": [f"{package}=={pinned(package)}" for package in ("ray", "vllm-tpu")],
        "resources": resources({"cpu": "1", "memory": "512Mi"}),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _redeploy(spec: Spec) -> Manifest:
    """Bring the apps back after the loss of the head, from the ConfigMap of what was deployed last."""
    source = {"secretKeyRef": {"name": names.ray_token(spec.name, spec.kind), "key": names.TOKEN_KEY}}
    token = {"env": [{"name": RAY_TOKEN, "valueFrom": source}]} if spec.auth == "token" else {}
    return {
        "name": "redeploy",
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "apps.common.redeploy", f"{_SERVE_CONFIG}/{names.SERVE_CONFIG_KEY}"],
        **token,
        "resources": resources({"cpu": "100m", "memory": "256Mi"}),
        "volumeMounts": [{"name": "serve-config", "mountPath": _SERVE_CONFIG, "readOnly": True}],
        "securityContext": container_security(),
    }


def _template(
    spec: Spec, container: Manifest, volumes: list[Manifest], *, root: bool = False, capabilities: Sequence[str] = ()
) -> Manifest:
    return {
        # KubeRay's services select pods by its own app.kubernetes.io/name: one of ours would hide them
        "metadata": {"labels": names.pod_labels(spec.name), "annotations": {names.EVICTION_ANNOTATION: "false"}},
        "spec": {
            "serviceAccountName": names.serving_account(spec.name),
            "automountServiceAccountToken": False,  # Cloud Storage is reached through GKE's metadata server
            "securityContext": pod_security(root=root),
            "containers": [{**container, "securityContext": container_security(capabilities)}],
            "volumes": volumes,
        },
    }


def _volumes(spec: Spec) -> list[Manifest]:
    keys = {"name": "api-keys", "secret": {"secretName": spec.api_keys, "defaultMode": 0o440}}
    return [{"name": "tmp", "emptyDir": {}}, *([keys] if spec.api_keys else [])]


def _weights_volume(spec: Spec) -> Manifest:
    """A volume in memory: a host has 720 GB of it, and its boot disk reads a tenth as fast as the bucket."""
    shape = recorded_shape(spec.model.id)
    empty_dir = {"medium": "Memory"}
    if shape:
        parameters = shape.layer_parameters + shape.embedding_parameters + shape.vision_parameters
        gib = -(-int(parameters * _BF16_BYTES * _MODEL_MARGIN) // 1024**3)
        empty_dir["sizeLimit"] = f"{gib}Gi"
    return {"name": "weights", "emptyDir": empty_dir}


def _node_selector(spec: Spec) -> dict[str, str]:
    shape = spec.slices.shape
    selector = {names.ACCELERATOR_LABEL: shape.generation.gke_accelerator, names.TOPOLOGY_LABEL: shape.topology}
    if spec.has_compute_class:
        selector[names.COMPUTE_CLASS_LABEL] = names.compute_class(spec.name)
    elif spec.slices.capacity[0].kind == "spot":
        selector[names.SPOT_LABEL] = "true"
    return selector


def _probe(period_s: int, failures: int) -> Manifest:
    """Ray's own health of a node, from its agent (Ray 2.53 or later)."""
    return {
        "httpGet": {"path": "/api/healthz", "port": names.AGENT_PORT},
        "initialDelaySeconds": 10,
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _port(name: str) -> Manifest:
    # The protocol is the default: left out, the server adds it, and the list is then not what another manager applies.
    return {"name": name, "containerPort": names.PORTS[name], "protocol": "TCP"}


def _plain(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def memory_needed(spec: Spec) -> str | None:
    """Why the memory of a host's pod is too small for what is kept in it; None where it is not."""
    limit = _weights_volume(spec)["emptyDir"].get("sizeLimit")
    if limit is None:
        return None
    needed = parse_quantity(limit) * 2 + OBJECT_STORE_BYTES  # the copy on its way to the chips beside the one in memory
    if parse_quantity(spec.slices.memory) >= needed:
        return None
    return f"is {spec.slices.memory}: weights in memory, their way to the chips and Ray need {int(needed) >> 30}Gi"
