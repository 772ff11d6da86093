"""All manifests of a spec, in the order in which they must exist, and as YAML that `kubectl apply -f` takes."""

from typing import Any, Literal

import yaml

from kuberay.manifests import access, admission, monitoring, network, operation, ray
from kuberay.spec import Spec

Manifest = dict[str, Any]
Part = Literal["platform", "workload"]
"""`platform` is what an administrator gives once (namespace, accounts, rights, networks), `workload` what its users change."""
_HEAD = """\
# Made by scripts/cluster.py render from {source}: change that file, not this one.
# kubectl apply --server-side -f THIS works without the project.
"""


def platform(spec: Spec) -> list[Manifest]:
    """What must be there before the pods."""
    found = [access.namespace(spec)] if spec.namespace != "default" else []
    found += [*access.service_accounts(spec), *access.user_roles(spec), *admission.pod_policy(spec)]
    found += [network.network_policy(spec), operation.disruption_budget(spec)]
    if spec.slices.network == "dranet":
        found.append(network.claim_template(spec))
        found += [network.compute_class(spec)] if spec.cloud.mode == "autopilot" else []
    return found + monitoring.monitoring(spec)


def workload(spec: Spec, serve_config: str) -> list[Manifest]:
    """The staging job and Ray itself. `serve_config` is the text of the Serve config, which only a RayService carries."""
    main = ray.ray_cluster(spec) if spec.kind == "RayCluster" else ray.ray_service(spec, serve_config)
    return [operation.staging_job(spec), main]


def manifests(spec: Spec, serve_config: str) -> list[tuple[Part, Manifest]]:
    """Every manifest with its part."""
    return [("platform", one) for one in platform(spec)] + [("workload", one) for one in workload(spec, serve_config)]


def to_yaml(found: list[Manifest], source: str) -> str:
    """One YAML text, the same for the same spec."""
    documents = [yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120) for one in found]
    return _HEAD.format(source=source) + "---\n" + "---\n".join(documents)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
