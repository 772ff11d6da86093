"""What a container is given from outside of its image: its environment, and the volumes that must exist before it can start."""

import base64
import re
from collections.abc import Iterator

from emulation.kubernetes.nodes.api import Api, Json

_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


class MissingInputError(Exception):
    """Something that a pod refers to does not exist; the message is the kubelet's."""


def environment_of(api: Api, pod: Json, container: Json, addresses: Json) -> dict[str, str]:
    """Every variable of a container. `addresses` holds `podIP` and `hostIP`. Raises `MissingInputError`."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for kind, key in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            if reference := source.get(key):
                data = _data(api, pod, kind, reference)
                variables.update({source.get("prefix", "") + name: value for name, value in (data or {}).items()})
    for variable in container.get("env", []):
        value = _value(api, pod, container, variable, addresses)
        if value is not None:
            variables[variable["name"]] = expand(value, variables)
    return variables


def expand(text: str, variables: dict[str, str]) -> str:
    """Kubernetes' own `$(NAME)`; what is not defined stays as it is, and `$$` is a dollar."""
    return _REFERENCE.sub(lambda match: variables.get(match[1], match[0]) if match[1] else "$", text)


def check_volumes(api: Api, pod: Json) -> None:
    """Raises `MissingInputError` for the first volume of a Secret or ConfigMap that is not there."""
    for volume, kind, name in _needed_volumes(pod):
        if _find(api, pod, kind, name) is None:
            raise MissingInputError(f'MountVolume.SetUp failed for volume "{volume}" : {kind.lower()} "{name}" not found')


def _needed_volumes(pod: Json) -> Iterator[tuple[str, str, str]]:
    for volume in pod["spec"].get("volumes", []):
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if (secret := source.get("secret")) and not secret.get("optional"):
                yield volume["name"], "Secret", secret.get("secretName") or secret["name"]
            if (config := source.get("configMap")) and not config.get("optional"):
                yield volume["name"], "ConfigMap", config["name"]


def _value(api: Api, pod: Json, container: Json, variable: Json, addresses: Json) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value", ""))
    if field := source.get("fieldRef"):
        return _field(pod, field["fieldPath"], addresses)
    if resource := source.get("resourceFieldRef"):
        kind, _, name = resource["resource"].partition(".")
        return str(container["resources"].get(kind, {}).get(name, "0"))
    for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        if reference := source.get(key):
            return _entry(api, pod, kind, reference)
    return None


def _entry(api: Api, pod: Json, kind: str, reference: Json) -> str | None:
    data = _data(api, pod, kind, reference)
    if data is not None and reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    name = f"{pod['metadata']['namespace']}/{reference['name']}"
    raise MissingInputError(f"couldn't find key {reference['key']} in {kind} {name}")


def _data(api: Api, pod: Json, kind: str, reference: Json) -> dict[str, str] | None:
    source = _find(api, pod, kind, reference["name"])
    if source is None:
        if reference.get("optional"):
            return None
        raise MissingInputError(f'{kind.lower()} "{reference["name"]}" not found')
    data = source.get("data", {})
    return data if kind == "ConfigMap" else {key: base64.b64decode(value).decode() for key, value in data.items()}


def _find(api: Api, pod: Json, kind: str, name: str) -> Json | None:
    return api.find(f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind.lower()}s/{name}")


def _field(pod: Json, path: str, addresses: Json) -> str:
    meta, spec = pod["metadata"], pod["spec"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(meta.get(match[1], {}).get(match[2], ""))
    plain = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": addresses["podIP"],
        "status.hostIP": addresses["hostIP"],
    }
    return str(plain[path])
