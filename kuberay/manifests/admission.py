"""What a pod of the namespace may mount and read: a policy that the API server itself enforces, whoever makes the pod.

Pods are checked, not what makes them: a Job, a RayCluster or a Deployment ends in a pod. A pod's kind is its service account.
"""

import json

from kuberay import names
from kuberay.manifests import manifest
from kuberay.objects import Manifest
from kuberay.spec import Spec

_DEFAULTS: Manifest = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
"""Left out, the server adds them, and the whole is then not what another manager applies."""
_VOLUMES = ("emptyDir", "downwardAPI", "projected", "secret", "configMap")


def pod_policy(spec: Spec) -> list[Manifest]:
    """The policy and its binding to the namespace; none for `default`, in which others' pods live too."""
    if spec.namespace == "default":
        return []
    name = names.pod_policy(spec.namespace, spec.name)
    selector = {"matchLabels": {"kubernetes.io/metadata.name": spec.namespace}}
    rules = [_rule("CREATE", "pods"), _rule("UPDATE", "pods/ephemeralcontainers")]
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {**_DEFAULTS, "resourceRules": rules},
        "variables": [{"name": variable, "expression": text} for variable, text in _variables(spec).items()],
        "validations": _validations(spec),
    }
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {**_DEFAULTS, "namespaceSelector": selector},
    }
    return [
        manifest(spec, "access", "ValidatingAdmissionPolicy", name, spec=policy),
        manifest(spec, "access", "ValidatingAdmissionPolicyBinding", name, spec=binding),
    ]


def _secrets(spec: Spec) -> dict[str, list[str]]:
    """Names of secrets, by the service account of the pods that may read them."""
    redis = spec.fault_tolerance.password if spec.fault_tolerance else None
    token = names.ray_token(spec.name, spec.kind) if spec.auth == "token" else None
    serving = (spec.api_keys, redis and redis.name, token)
    staging = (spec.hub_token and spec.hub_token.name,)
    return {
        names.serving_account(spec.name): [name for name in serving if name],
        names.staging_account(spec.name): [name for name in staging if name],
    }


def _config_maps(spec: Spec) -> list[str]:
    """The one that Kubernetes mounts beside an account's token, and the Serve config that was deployed last."""
    return ["kube-root-ca.crt", names.serve_config_map(spec.name)]


def _variables(spec: Spec) -> dict[str, str]:
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return {
        "account": "object.spec.?serviceAccountName.orValue('default')",
        "volumes": "object.spec.?volumes.orValue([])",
        "containers": " + ".join(f"object.spec.?{kind}.orValue([])" for kind in kinds),
        "secrets": f"{json.dumps(_secrets(spec))}[?variables.account].orValue([])",
        "configMaps": json.dumps(_config_maps(spec)),
    }


def _validations(spec: Spec) -> list[Manifest]:
    accounts = [*_secrets(spec), "default"]
    where = f"in namespace {spec.namespace}"
    kinds = " || ".join(f"has(v.{kind})" for kind in _VOLUMES)
    shared = " && ".join(f"!object.spec.?{name}.orValue(false)" for name in ("hostNetwork", "hostPID", "hostIPC"))
    privileged = "variables.containers.all(c, !c.?securityContext.?privileged.orValue(false))"
    return [
        _validation(f"variables.account in {json.dumps(accounts)}", f"pods {where} run as {', '.join(accounts)}"),
        _validation(
            f"variables.volumes.all(v, {kinds})",
            f"pods {where} have volumes of the kinds {', '.join(_VOLUMES)} only: no hostPath, no claim",
        ),
        _validation(f"{shared} && {privileged}", f"pods {where} are not privileged and share nothing with their node"),
        {
            "expression": _reads_only("variables.secrets", "secret", "secretName", "secretKeyRef", "secretRef"),
            "messageExpression": f"'a pod of the account ' + variables.account + ' {where} may read no secret but: ' + "
            "(size(variables.secrets) > 0 ? variables.secrets.join(', ') : 'none')",
            "reason": "Forbidden",
        },
        _validation(
            _reads_only("variables.configMaps", "configMap", "name", "configMapKeyRef", "configMapRef"),
            f"pods {where} may read no config map but {', '.join(_config_maps(spec))}",
        ),
    ]


def _reads_only(allowed: str, volume: str, name: str, variable: str, variables: str) -> str:
    """True where a pod names only allowed objects, in the four places in which it can name one."""
    places = (
        f"variables.volumes.all(v, !has(v.{volume}) || v.{volume}.?{name}.orValue('') in {allowed})",
        f"variables.volumes.all(v, v.?projected.?sources.orValue([]).all(s, !has(s.{volume}) || "
        f"s.{volume}.?name.orValue('') in {allowed}))",
        f"variables.containers.all(c, c.?env.orValue([]).all(e, !e.?valueFrom.?{variable}.hasValue() || "
        f"e.valueFrom.{variable}.?name.orValue('') in {allowed}))",
        f"variables.containers.all(c, c.?envFrom.orValue([]).all(f, !has(f.{variables}) || "
        f"f.{variables}.?name.orValue('') in {allowed}))",
    )
    return " && ".join(places)


def _validation(expression: str, message: str) -> Manifest:
    return {"expression": expression, "message": message, "reason": "Forbidden"}


def _rule(operation: str, resource: str) -> Manifest:
    return {"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": [resource], "scope": "Namespaced"}
