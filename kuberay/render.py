"""All manifests of a spec, in the order in which they must exist, and as YAML that `kubectl apply -f` takes."""

from typing import Any, Literal, get_args

import yaml

from kuberay.manifests import access, admission, gateway, monitoring, network, ray, staging
from kuberay.manifests.overlay import overlaid
from kuberay.objects import Manifest
from kuberay.spec import Spec

Part = Literal["platform", "workload"]
"""`platform` is what an administrator gives once (namespace, accounts, rights, networks), `workload` what its users change."""
MADE_BY = "# Made by scripts/cluster.py render from "
_HEAD = f"""\
{MADE_BY}{{source}}: change that file, not this one.
# kubectl apply --server-side -f THIS works without the project.
"""


def manifests(spec: Spec, serve_config: str, part: Part | None = None) -> list[Manifest]:
    """Every manifest, or those of one part. `serve_config` is the text of the Serve config, which only a RayService carries."""
    platform = [access.namespace(spec)] if spec.namespace != "default" else []
    platform += [*access.service_accounts(spec), *access.user_roles(spec), *admission.pod_policy(spec)]
    platform += [network.network_policy(spec), *ray.disruption_budgets(spec)]
    if spec.slices.network == "dranet":
        platform.append(network.claim_template(spec))
    platform += [network.compute_class(spec)] if spec.has_compute_class else []
    platform += [*monitoring.monitoring(spec), *gateway.gateway(spec)]
    main = ray.ray_cluster(spec) if spec.kind == "RayCluster" else ray.ray_service(spec, serve_config)
    workload = [staging.staging_job(spec), main]
    whole = overlaid(spec, platform + workload)
    return {"platform": whole[: len(platform)], "workload": whole[len(platform) :], None: whole}[part]


def to_yaml(documents: list[Manifest], source: str) -> str:
    """One YAML text, the same for the same spec."""
    texts = [yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120) for document in documents]
    return _HEAD.format(source=source) + "---\n" + "---\n".join(texts)


def kustomize_base(spec: Spec, serve_config: str, part: Part | None, source: str) -> dict[str, str]:
    """The files of a Kustomize base, by name: one for each part (or the one), and the list of them."""
    parts: tuple[Part, ...] = (part,) if part else get_args(Part)
    texts = {f"{part}.yaml": to_yaml(manifests(spec, serve_config, part), source) for part in parts}
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [*texts]}
    return {**texts, "kustomization.yaml": to_yaml([listed], source)}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
