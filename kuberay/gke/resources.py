"""What a deployment needs in Google Cloud, in the order in which it is made: for each thing how to see, make and remove it."""

import re

from kuberay.gke.access import BUILD_ROLES, NODE_ROLES, account, bindings, email, has_labels, labelled, labels, project
from kuberay.gke.certificates import certificates
from kuberay.gke.gcloud import Argv, Description, Resource, inspect
from kuberay.spec import Spec
from kuberay.versions import FIRST_DRANET_GKE, numbers

_IMAGE = re.compile(r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/.+")
_POOL_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_BUILD_CONFIG = "runtime_env/cloudbuild.yaml"
DEFAULT_MACHINE = "n2-standard-8"
"""The default pool's machine: the head and the staging job fit on one, beside what GKE itself runs."""
_DEFAULT_MACHINES = 3  # at most; the autoscaler makes what a pod waits for
_WEEKENDS = (  # GKE changes nodes and control plane then, and not in the middle of a working day
    "--maintenance-window-start=2026-01-03T00:00:00Z",
    "--maintenance-window-end=2026-01-03T06:00:00Z",
    "--maintenance-window-recurrence=FREQ=WEEKLY;BYDAY=SA,SU",
)
_BROKEN = ("ERROR", "RUNNING_WITH_ERROR", "STOPPING", "DEGRADED")


def resources(spec: Spec) -> list[Resource]:
    """Everything, in order."""
    needed = [_services(spec), _bucket(spec)]
    needed += [_cache(spec)] if spec.cloud.rapid_cache else []
    needed += [] if spec.cloud.node_account else account(spec, "nodes", NODE_ROLES)
    if (image := _IMAGE.fullmatch(spec.image)) and image["project"] == spec.cloud.project:
        needed += [_repository(spec, image["region"], image["repository"])]
        needed += [*account(spec, "build", BUILD_ROLES), _image(spec, image["region"])]
    needed.append(_cluster(spec))
    if not spec.has_compute_class:
        needed += [_node_pool(spec, number) for number in range(spec.slices.count)]
    return [*needed, *certificates(spec), *bindings(spec)]


def location(spec: Spec) -> str:
    """The place of the cluster: the zone of its TPU hosts, or for an Autopilot or a regional one the region."""
    return spec.cloud.region if spec.cloud.mode == "autopilot" or spec.cloud.regional else spec.cloud.zone


def credentials(spec: Spec) -> Argv:
    """The command that writes the kubeconfig."""
    return ("container", "clusters", "get-credentials", spec.cloud.cluster, f"--location={location(spec)}", project(spec))


def _services(spec: Spec) -> Resource:
    wanted = ["container", "storage", "artifactregistry", "cloudbuild", "iam", "cloudresourcemanager"]
    wanted += ["certificatemanager"] if spec.expose else []
    argv = ("services", "enable", *(f"{name}.googleapis.com" for name in wanted), project(spec))
    return Resource("APIs", None, (argv,))  # enabling what is enabled does nothing; others may use them, so they stay


def _bucket(spec: Spec) -> Resource:
    url = f"gs://{spec.bucket}"
    create = (
        *("storage", "buckets", "create", url, f"--location={spec.cloud.region}", "--uniform-bucket-level-access"),
        *("--public-access-prevention", project(spec)),
        *([f"--default-encryption-key={spec.cloud.kms_key}"] if spec.cloud.kms_key else []),
    )
    return Resource(
        f"bucket {spec.bucket}",
        ("storage", "buckets", "describe", url),
        (create, ("storage", "buckets", "update", url, f"--update-labels={labels(spec)}")),
        (("storage", "rm", url, "--recursive"),),
        is_ours=lambda bucket: has_labels(bucket, spec),
        problem=lambda bucket: _elsewhere(bucket, spec),
        empty_first=("storage", "buckets", "anywhere-caches", "list", url),
    )


def _cache(spec: Spec) -> Resource:
    bucket, url = _bucket(spec), f"gs://{spec.bucket}"
    options = ("--ttl=1d", "--admission-policy=ADMIT_ON_FIRST_MISS")
    return Resource(
        f"Rapid Cache of {spec.bucket} in {spec.cloud.zone}",
        ("storage", "buckets", "anywhere-caches", "list", url),
        (("storage", "buckets", "anywhere-caches", "create", url, spec.cloud.zone, *options),),
        (("storage", "buckets", "anywhere-caches", "disable", f"{spec.bucket}/{spec.cloud.zone}"),),
        is_there=lambda caches: any(_serves(cache, spec.cloud.zone) for cache in caches or []),
        # a cache has no labels of its own
        is_ours=lambda _: (there := inspect(bucket)) is not None and bucket.is_ours(there),
        state=lambda caches: ", ".join(str(cache.get("state", "there")) for cache in caches),
    )


def _serves(cache: Description, zone: str) -> bool:
    """Whether a cache is in the zone, and stays: one that is disabled is still listed for an hour and more."""
    return cache.get("zone", cache.get("id", "")).endswith(zone) and str(cache.get("state")).lower() != "disabled"


def _repository(spec: Spec, region: str, name: str) -> Resource:
    place = (name, f"--location={region}")
    return labelled(spec, f"image repository {name}", ("artifacts", "repositories"), place, ("--repository-format=docker",))


def _image(spec: Spec, region: str) -> Resource:
    builder = f"projects/{spec.cloud.project}/serviceAccounts/{email(spec, 'build')}"
    build = (
        *("builds", "submit", ".", f"--config={_BUILD_CONFIG}", f"--substitutions=_IMAGE={spec.image}", f"--region={region}"),
        *(f"--service-account={builder}", "--default-buckets-behavior=regional-user-owned-bucket"),
    )
    return Resource(
        "image",
        ("artifacts", "docker", "images", "describe", spec.image, project(spec)),
        ((*build, project(spec)),),
        state=lambda image: str((image.get("image_summary") or {}).get("digest", "there")),
    )  # goes with its repository


def _cluster(spec: Spec) -> Resource:
    place = (spec.cloud.cluster, f"--location={location(spec)}", project(spec))
    common: Argv = (
        *(*place, f"--release-channel={spec.cloud.channel}", f"--labels={labels(spec)}"),
        # not its log collection: a side-car in each pod, of which nobody has said that the level `restricted` takes it
        *(f"--service-account={email(spec, 'nodes')}", "--enable-ray-cluster-monitoring"),
    )
    wanted = (("network", spec.cloud.network), ("subnetwork", spec.cloud.subnetwork), ("boot-disk-kms-key", spec.cloud.kms_key))
    common += tuple(f"--{option}={value}" for option, value in wanted if value)
    common += ("--enable-private-nodes",) if spec.cloud.private_nodes else ()
    autopilot = ("container", "clusters", "create-auto", *common, "--enable-ray-operator")
    standard = (
        *("container", "clusters", "create", *common, "--addons=RayOperator", "--enable-dataplane-v2"),
        *(f"--workload-pool={spec.cloud.project}.svc.id.goog", "--workload-metadata=GKE_METADATA"),
        *(f"--machine-type={DEFAULT_MACHINE}", "--num-nodes=1"),
        *("--enable-autoscaling", "--min-nodes=1", f"--max-nodes={_DEFAULT_MACHINES}"),
        *("--enable-managed-prometheus", "--enable-image-streaming", "--shielded-secure-boot"),
        *("--gateway-api=standard", "--enable-cost-allocation"),
    )
    weekends = ("container", "clusters", "update", *place, *_WEEKENDS)
    return Resource(
        f"GKE cluster {spec.cloud.cluster} ({spec.cloud.mode})",
        ("container", "clusters", "describe", *place),
        (autopilot if spec.cloud.mode == "autopilot" else standard, weekends),
        (("container", "clusters", "delete", *place),),
        is_ours=lambda cluster: has_labels(cluster, spec),
        state=lambda cluster: f"{cluster.get('status')}, {cluster.get('currentMasterVersion')}",
        problem=lambda cluster: _cluster_problem(cluster, spec),
    )


def _cluster_problem(cluster: Description, spec: Spec) -> str | None:
    """The first thing that a cluster lacks, and what to do; None where it has all that a deployment needs."""
    if cluster.get("status") in _BROKEN:
        return f"is {cluster['status']}: {cluster.get('statusMessage') or 'see its page in the console'}"
    addons = cluster.get("addonsConfig") or {}
    update = f"gcloud container clusters update {spec.cloud.cluster}"
    if not (addons.get("rayOperatorConfig") or {}).get("enabled"):
        return f"has no RayOperator add-on: `{update} --update-addons=RayOperator=ENABLED`"
    if not (cluster.get("workloadIdentityConfig") or {}).get("workloadPool"):
        return f"has no Workload Identity: `{update} --workload-pool={spec.cloud.project}.svc.id.goog`"
    if spec.slices.network != "dranet":
        return None
    if (cluster.get("networkConfig") or {}).get("datapathProvider") != "ADVANCED_DATAPATH":
        return "has no Dataplane V2, which cannot be added later: make another cluster, or set slices.network: none"
    version = str(cluster.get("currentMasterVersion", ""))
    if version and numbers(version) < numbers(FIRST_DRANET_GKE):
        return f"is {version}, DRANET for TPU begins with {FIRST_DRANET_GKE}: upgrade it, or make it with cloud.channel: rapid"
    return None


def _node_pool(spec: Spec, number: int) -> Resource:
    shape = spec.slices.shape
    name = f"{spec.name}-tpu-{number}"
    options = (
        *(f"--machine-type={shape.machine_type}", f"--tpu-topology={shape.topology}"),
        *("--enable-gvnic", f"--scopes={_POOL_SCOPE}", "--workload-metadata=GKE_METADATA"),
        f"--service-account={email(spec, 'nodes')}",
        *_network(spec),
        *_capacity(spec),
        *([f"--node-locations={spec.cloud.zone}"] if spec.cloud.regional else []),
        *([f"--boot-disk-kms-key={spec.cloud.kms_key}"] if spec.cloud.kms_key else []),
    )
    return labelled(
        spec,
        f"node pool {name} ({shape.hosts} {shape.machine_type}, {shape.topology})",
        ("container", "node-pools"),
        (name, f"--cluster={spec.cloud.cluster}", f"--location={location(spec)}"),
        options,
        state=lambda pool: str(pool.get("status")),
        problem=lambda pool: _pool_problem(pool, spec),
    )


def _pool_problem(pool: Description, spec: Spec) -> str | None:
    """Why the pods would never come to its nodes."""
    shape = spec.slices.shape
    there = ((pool.get("config") or {}).get("machineType"), (pool.get("placementPolicy") or {}).get("tpuTopology"))
    if pool.get("status") in _BROKEN:
        return f"is {pool['status']} ({pool.get('statusMessage') or 'without a reason'}): delete it, and run up again"
    if there != (shape.machine_type, shape.topology):
        what = f"has machines {there[0]} with topology {there[1]}, the spec needs {shape.machine_type} with {shape.topology}"
        return f"{what}: delete it, or give the deployment another name"
    return None


def _network(spec: Spec) -> Argv:
    if spec.slices.network == "none":
        return ()
    return ("--accelerator-network-profile=auto", "--node-labels=cloud.google.com/gke-networking-dra-driver=true")


def _capacity(spec: Spec) -> Argv:
    """All hosts come when their pods wait for them, and go when there are none: a parked cluster costs no TPU."""
    (capacity,) = spec.slices.capacity
    size = ("--num-nodes=0", "--enable-autoscaling", "--min-nodes=0", f"--max-nodes={spec.slices.shape.hosts}")
    match capacity.kind:
        case "spot":
            return (*size, "--spot")
        case "reservation":
            return (*size, "--reservation-affinity=specific", f"--reservation={capacity.reservation}")
        case "flex-start":  # and are kept for at most seven days
            return (*size, "--flex-start")
        case _:
            return size


def _elsewhere(bucket: Description, spec: Spec) -> str | None:
    place = str(bucket.get("location", "")).lower()
    if not place or place == spec.cloud.region:
        return None
    return f"is in {place}, the TPU hosts are in {spec.cloud.region}: use another bucket, or every start reads from afar"
