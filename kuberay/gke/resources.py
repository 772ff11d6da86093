"""What a deployment needs in Google Cloud, in the order in which it is made: for each thing how to see, make and remove it."""

import re

from kuberay import names
from kuberay.gke.checks import cluster_problem
from kuberay.gke.gcloud import Argv
from kuberay.gke.resource import Found, Resource
from kuberay.gke.rights import bindings
from kuberay.spec import Spec

_IMAGE = re.compile(r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/.+")
_POOL_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_BUILD_CONFIG = "runtime_env/cloudbuild.yaml"


def resources(spec: Spec) -> list[Resource]:
    """Everything, in order."""
    found = [_services(spec), _bucket(spec)]
    found += [_cache(spec)] if spec.cloud.rapid_cache else []
    if (image := _IMAGE.fullmatch(spec.image)) and image["project"] == spec.cloud.project:
        found += [_repository(spec, image["region"], image["repository"]), _image(spec, image["region"])]
    found.append(_cluster(spec))
    if spec.cloud.mode == "standard":
        found += [_node_pool(spec, number) for number in range(spec.slices.count)]
    return [*found, *bindings(spec)]


def location(spec: Spec) -> str:
    """A Standard cluster is in the zone of its TPU hosts, an Autopilot cluster in the region."""
    return spec.cloud.zone if spec.cloud.mode == "standard" else spec.cloud.region


def credentials(spec: Spec) -> Argv:
    """Writes the kubeconfig."""
    return ("container", "clusters", "get-credentials", spec.cloud.cluster, f"--location={location(spec)}", _project(spec))


def _services(spec: Spec) -> Resource:
    wanted = ("container", "storage", "artifactregistry", "cloudbuild")
    argv = ("services", "enable", *(f"{name}.googleapis.com" for name in wanted), _project(spec))
    return Resource("APIs", None, (argv,))  # enabling what is enabled does nothing; others may use them, so they stay


def _bucket(spec: Spec) -> Resource:
    url = f"gs://{spec.bucket}"
    create = (
        *("storage", "buckets", "create", url, f"--location={spec.cloud.region}", "--uniform-bucket-level-access"),
        *("--public-access-prevention", _project(spec)),
    )
    return Resource(
        f"bucket {spec.bucket}",
        ("storage", "buckets", "describe", url),
        (create, ("storage", "buckets", "update", url, f"--update-labels={_labels(spec)}")),
        (("storage", "rm", url, "--recursive"),),
        is_ours=lambda found: _has_labels(found.get("labels"), spec),
        problem=lambda found: _elsewhere(found, spec),
    )


def _cache(spec: Spec) -> Resource:
    url = f"gs://{spec.bucket}"
    options = ("--ttl=1d", "--admission-policy=ADMIT_ON_FIRST_MISS")
    return Resource(
        f"Rapid Cache of {spec.bucket} in {spec.cloud.zone}",
        ("storage", "buckets", "anywhere-caches", "list", url),
        (("storage", "buckets", "anywhere-caches", "create", url, spec.cloud.zone, *options),),
        (("storage", "buckets", "anywhere-caches", "disable", f"{spec.bucket}/{spec.cloud.zone}"),),
        is_there=lambda found: any(one.get("zone", one.get("id", "")).endswith(spec.cloud.zone) for one in found or []),
        state=lambda found: ", ".join(str(one.get("state", "there")) for one in found),
    )


def _repository(spec: Spec, region: str, name: str) -> Resource:
    place = (name, f"--location={region}", _project(spec))
    return Resource(
        f"image repository {name}",
        ("artifacts", "repositories", "describe", *place),
        (("artifacts", "repositories", "create", *place, "--repository-format=docker", f"--labels={_labels(spec)}"),),
        (("artifacts", "repositories", "delete", *place),),
        is_ours=lambda found: _has_labels(found.get("labels"), spec),
    )


def _image(spec: Spec, region: str) -> Resource:
    build = ("builds", "submit", ".", f"--config={_BUILD_CONFIG}", f"--substitutions=_IMAGE={spec.image}", f"--region={region}")
    return Resource(
        "image",
        ("artifacts", "docker", "images", "describe", spec.image, _project(spec)),
        ((*build, _project(spec)),),
        state=lambda found: str((found.get("image_summary") or {}).get("digest", "there")),
    )  # goes with its repository


def _cluster(spec: Spec) -> Resource:
    place = (spec.cloud.cluster, f"--location={location(spec)}", _project(spec))
    common = (
        *place,
        "--release-channel=rapid",  # the first to have DRANET
        f"--labels={_labels(spec)}",
        "--enable-ray-cluster-logging",
        "--enable-ray-cluster-monitoring",
    )
    autopilot = ("container", "clusters", "create-auto", *common, "--enable-ray-operator")
    standard = (
        *("container", "clusters", "create", *common, "--addons=RayOperator", "--enable-dataplane-v2"),
        *(
            f"--workload-pool={spec.cloud.project}.svc.id.goog",
            "--workload-metadata=GKE_METADATA",
            "--machine-type=n2-standard-8",
        ),
        *("--num-nodes=1", "--enable-managed-prometheus", "--enable-image-streaming", "--shielded-secure-boot"),
    )
    return Resource(
        f"GKE cluster {spec.cloud.cluster} ({spec.cloud.mode})",
        ("container", "clusters", "describe", *place),
        (autopilot if spec.cloud.mode == "autopilot" else standard,),
        (("container", "clusters", "delete", *place),),
        is_ours=lambda found: _has_labels(found.get("resourceLabels"), spec),
        state=lambda found: f"{found.get('status')}, {found.get('currentMasterVersion')}",
        problem=lambda found: cluster_problem(found, spec),
    )


def _node_pool(spec: Spec, number: int) -> Resource:
    shape = spec.slices.shape
    name = f"{spec.name}-tpu-{number}"
    place = (name, f"--cluster={spec.cloud.cluster}", f"--location={location(spec)}", _project(spec))
    create = (
        *(
            "container",
            "node-pools",
            "create",
            *place,
            f"--machine-type={shape.machine_type}",
            f"--tpu-topology={shape.topology}",
        ),
        *("--enable-gvnic", f"--scopes={_POOL_SCOPE}", "--workload-metadata=GKE_METADATA", f"--labels={_labels(spec)}"),
        *_network(spec),
        *_capacity(spec),
    )
    return Resource(
        f"node pool {name} ({shape.hosts} {shape.machine_type}, {shape.topology})",
        ("container", "node-pools", "describe", *place),
        (create,),
        (("container", "node-pools", "delete", *place),),
        is_ours=lambda found: _has_labels((found.get("config") or {}).get("resourceLabels"), spec),
        state=lambda found: str(found.get("status")),
    )


def _network(spec: Spec) -> Argv:
    if spec.slices.network == "none":
        return ()
    return ("--accelerator-network-profile=auto", "--node-labels=cloud.google.com/gke-networking-dra-driver=true")


def _capacity(spec: Spec) -> Argv:
    hosts, capacity = spec.slices.shape.hosts, spec.slices.capacity
    match capacity.kind:
        case "spot":
            return (f"--num-nodes={hosts}", "--spot")
        case "reservation":
            return (f"--num-nodes={hosts}", "--reservation-affinity=specific", f"--reservation={capacity.reservation}")
        case "flex-start":  # nodes come when pods wait for them, and are kept for at most seven days
            return ("--num-nodes=0", "--flex-start", "--enable-autoscaling", "--min-nodes=0", f"--max-nodes={hosts}")
        case _:
            return (f"--num-nodes={hosts}",)


def _project(spec: Spec) -> str:
    return f"--project={spec.cloud.project}"


def _labels(spec: Spec) -> str:
    return ",".join(f"{key}={value}" for key, value in _label_values(spec).items())


def _label_values(spec: Spec) -> dict[str, str]:
    """Which deployment made it: another one may use the same cluster or bucket, and must not remove it."""
    return {"managed-by": names.MANAGER, "deployment": spec.name}


def _has_labels(labels: dict[str, str] | None, spec: Spec) -> bool:
    return _label_values(spec).items() <= (labels or {}).items()


def _elsewhere(found: Found, spec: Spec) -> str | None:
    place = str(found.get("location", "")).lower()
    if not place or place == spec.cloud.region:
        return None
    return f"is in {place}, the TPU hosts are in {spec.cloud.region}: use another bucket, or every start reads from afar"
