"""All manifests of a spec, in the order in which they must exist, and as YAML that `kubectl apply -f` takes."""

from typing import Any, Literal

import yaml

from kuberay.manifests import access, admission, monitoring, network, ray, staging
from kuberay.objects import Manifest
from kuberay.spec import Spec

Part = Literal["platform", "workload"]
"""`platform` is what an administrator gives once (namespace, accounts, rights, networks), `workload` what its users change."""
_HEAD = """\
# Made by scripts/cluster.py render from {source}: change that file, not this one.
# kubectl apply --server-side -f THIS works without the project.
"""


def platform(spec: Spec) -> list[Manifest]:
    """What must be there before the pods."""
    wanted = [access.namespace(spec)] if spec.namespace != "default" else []
    wanted += [*access.service_accounts(spec), *access.user_roles(spec), *admission.pod_policy(spec)]
    wanted += [network.network_policy(spec), ray.disruption_budget(spec)]
    if spec.slices.network == "dranet":
        wanted.append(network.claim_template(spec))
        wanted += [network.compute_class(spec)] if spec.cloud.mode == "autopilot" else []
    return wanted + monitoring.monitoring(spec)


def workload(spec: Spec, serve_config: str) -> list[Manifest]:
    """The staging job and Ray itself. `serve_config` is the text of the Serve config, which only a RayService carries."""
    main = ray.ray_cluster(spec) if spec.kind == "RayCluster" else ray.ray_service(spec, serve_config)
    return [staging.staging_job(spec), main]


def manifests(spec: Spec, serve_config: str) -> list[tuple[Part, Manifest]]:
    """Every manifest with its part."""
    workloads = workload(spec, serve_config)
    return [*(("platform", manifest) for manifest in platform(spec)), *(("workload", manifest) for manifest in workloads)]


def to_yaml(documents: list[Manifest], source: str) -> str:
    """One YAML text, the same for the same spec."""
    texts = [yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120) for document in documents]
    return _HEAD.format(source=source) + "---\n" + "---\n".join(texts)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
