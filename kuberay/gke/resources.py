"""What a deployment needs in Google Cloud, in the order in which it is made: for each thing how to see, make and remove it."""

import re

from apps.llm.cache_identity import programs_url
from kuberay import names
from kuberay.gke.gcloud import PROJECT_NUMBER, Argv, Description, Resource
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
_NODE_ROLES = ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader")
_BUILD_ROLES = ("roles/cloudbuild.builds.builder",)
NEEDED_ROLES = (
    *("roles/container.admin", "roles/storage.admin", "roles/artifactregistry.admin", "roles/cloudbuild.builds.editor"),
    *("roles/serviceusage.serviceUsageAdmin", "roles/iam.serviceAccountAdmin", "roles/iam.serviceAccountUser"),
    "roles/resourcemanager.projectIamAdmin",
)
"""What whoever runs `up` needs in the project; the last two let it use the accounts that it makes, and give them their roles."""
_BROKEN = ("ERROR", "RUNNING_WITH_ERROR", "STOPPING", "DEGRADED")


def resources(spec: Spec) -> list[Resource]:
    """Everything, in order."""
    needed = [_services(spec), _bucket(spec)]
    needed += [_cache(spec)] if spec.cloud.rapid_cache else []
    needed += _account(spec, "nodes", _NODE_ROLES)
    if (image := _IMAGE.fullmatch(spec.image)) and image["project"] == spec.cloud.project:
        needed += [_repository(spec, image["region"], image["repository"])]
        needed += [*_account(spec, "build", _BUILD_ROLES), _image(spec, image["region"])]
    needed.append(_cluster(spec))
    if not spec.has_compute_class:
        needed += [_node_pool(spec, number) for number in range(spec.slices.count)]
    return [*needed, *_bindings(spec)]


def location(spec: Spec) -> str:
    """The place of the cluster: a Standard one is in the zone of its TPU hosts, an Autopilot one in the region."""
    return spec.cloud.zone if spec.cloud.mode == "standard" else spec.cloud.region


def credentials(spec: Spec) -> Argv:
    """The command that writes the kubeconfig."""
    return ("container", "clusters", "get-credentials", spec.cloud.cluster, f"--location={location(spec)}", _project(spec))


def _services(spec: Spec) -> Resource:
    wanted = ("container", "storage", "artifactregistry", "cloudbuild", "iam", "cloudresourcemanager")
    argv = ("services", "enable", *(f"{name}.googleapis.com" for name in wanted), _project(spec))
    return Resource("APIs", None, (argv,))  # enabling what is enabled does nothing; others may use them, so they stay


def _email(spec: Spec, use: str) -> str:
    """The address of a service account of Google's; its name has at most 30 characters."""
    return f"{spec.name[:24].rstrip('-')}-{use}@{spec.cloud.project}.iam.gserviceaccount.com"


def _account(spec: Spec, use: str, roles: Argv) -> list[Resource]:
    """An account for the nodes or the build, and its roles: the default accounts of a new organisation have none."""
    email, accounts = _email(spec, use), ("iam", "service-accounts")
    project, member = spec.cloud.project, f"serviceAccount:{email}"
    account = Resource(
        f"account of the {use}",
        (*accounts, "describe", email, _project(spec)),
        ((*accounts, "create", email.partition("@")[0], _project(spec), f"--description={_labels(spec)}"),),
        ((*accounts, "delete", email, _project(spec)),),
        is_ours=lambda there: there.get("description") == _labels(spec),
    )
    return [account, *(_binding(f"{role} for {email}", ("projects",), project, member, role) for role in roles)]


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
        is_ours=lambda bucket: _has_labels(bucket.get("labels"), spec),
        problem=lambda bucket: _elsewhere(bucket, spec),
        empty_first=("storage", "buckets", "anywhere-caches", "list", url),
    )


def _cache(spec: Spec) -> Resource:
    url = f"gs://{spec.bucket}"
    options = ("--ttl=1d", "--admission-policy=ADMIT_ON_FIRST_MISS")
    return Resource(
        f"Rapid Cache of {spec.bucket} in {spec.cloud.zone}",
        ("storage", "buckets", "anywhere-caches", "list", url),
        (("storage", "buckets", "anywhere-caches", "create", url, spec.cloud.zone, *options),),
        (("storage", "buckets", "anywhere-caches", "disable", f"{spec.bucket}/{spec.cloud.zone}"),),
        is_there=lambda caches: any(_serves(cache, spec.cloud.zone) for cache in caches or []),
        owner=_bucket(spec),  # a cache has no labels of its own
        state=lambda caches: ", ".join(str(cache.get("state", "there")) for cache in caches),
    )


def _serves(cache: Description, zone: str) -> bool:
    """Whether a cache is in the zone, and stays: one that is disabled is still listed for an hour and more."""
    return cache.get("zone", cache.get("id", "")).endswith(zone) and str(cache.get("state")).lower() != "disabled"


def _repository(spec: Spec, region: str, name: str) -> Resource:
    place = (name, f"--location={region}", _project(spec))
    return Resource(
        f"image repository {name}",
        ("artifacts", "repositories", "describe", *place),
        (("artifacts", "repositories", "create", *place, "--repository-format=docker", f"--labels={_labels(spec)}"),),
        (("artifacts", "repositories", "delete", *place),),
        is_ours=lambda repository: _has_labels(repository.get("labels"), spec),
    )


def _image(spec: Spec, region: str) -> Resource:
    account = f"projects/{spec.cloud.project}/serviceAccounts/{_email(spec, 'build')}"
    build = (
        *("builds", "submit", ".", f"--config={_BUILD_CONFIG}", f"--substitutions=_IMAGE={spec.image}", f"--region={region}"),
        *(f"--service-account={account}", "--default-buckets-behavior=regional-user-owned-bucket"),
    )
    return Resource(
        "image",
        ("artifacts", "docker", "images", "describe", spec.image, _project(spec)),
        ((*build, _project(spec)),),
        state=lambda image: str((image.get("image_summary") or {}).get("digest", "there")),
    )  # goes with its repository


def _cluster(spec: Spec) -> Resource:
    place = (spec.cloud.cluster, f"--location={location(spec)}", _project(spec))
    common = (
        *(*place, f"--release-channel={spec.cloud.channel}", f"--labels={_labels(spec)}"),
        # not its log collection: a side-car in each pod, of which nobody has said that the level `restricted` takes it
        *(f"--service-account={_email(spec, 'nodes')}", "--enable-ray-cluster-monitoring"),
    )
    autopilot = ("container", "clusters", "create-auto", *common, "--enable-ray-operator")
    standard = (
        *("container", "clusters", "create", *common, "--addons=RayOperator", "--enable-dataplane-v2"),
        *(f"--workload-pool={spec.cloud.project}.svc.id.goog", "--workload-metadata=GKE_METADATA"),
        *(f"--machine-type={DEFAULT_MACHINE}", "--num-nodes=1"),
        *("--enable-autoscaling", "--min-nodes=1", f"--max-nodes={_DEFAULT_MACHINES}"),
        *("--enable-managed-prometheus", "--enable-image-streaming", "--shielded-secure-boot"),
    )
    weekends = ("container", "clusters", "update", *place, *_WEEKENDS)
    return Resource(
        f"GKE cluster {spec.cloud.cluster} ({spec.cloud.mode})",
        ("container", "clusters", "describe", *place),
        (autopilot if spec.cloud.mode == "autopilot" else standard, weekends),
        (("container", "clusters", "delete", *place),),
        is_ours=lambda cluster: _has_labels(cluster.get("resourceLabels"), spec),
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
    place = (name, f"--cluster={spec.cloud.cluster}", f"--location={location(spec)}", _project(spec))
    create = (
        *("container", "node-pools", "create", *place),
        *(f"--machine-type={shape.machine_type}", f"--tpu-topology={shape.topology}"),
        *("--enable-gvnic", f"--scopes={_POOL_SCOPE}", "--workload-metadata=GKE_METADATA", f"--labels={_labels(spec)}"),
        f"--service-account={_email(spec, 'nodes')}",
        *_network(spec),
        *_capacity(spec),
    )
    return Resource(
        f"node pool {name} ({shape.hosts} {shape.machine_type}, {shape.topology})",
        ("container", "node-pools", "describe", *place),
        (create,),
        (("container", "node-pools", "delete", *place),),
        is_ours=lambda pool: _has_labels((pool.get("config") or {}).get("resourceLabels"), spec),
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


def _project(spec: Spec) -> str:
    return f"--project={spec.cloud.project}"


def _labels(spec: Spec) -> str:
    """Which deployment made it: another one may use the same cluster or bucket, and must not remove it."""
    return f"managed-by={names.MANAGER},deployment={spec.name}"


def _has_labels(labels: dict[str, str] | None, spec: Spec) -> bool:
    return {"managed-by": names.MANAGER, "deployment": spec.name}.items() <= (labels or {}).items()


def _elsewhere(bucket: Description, spec: Spec) -> str | None:
    place = str(bucket.get("location", "")).lower()
    if not place or place == spec.cloud.region:
        return None
    return f"is in {place}, the TPU hosts are in {spec.cloud.region}: use another bucket, or every start reads from afar"


def _bindings(spec: Spec) -> list[Resource]:
    """What the pods may do with the bucket, as themselves (Workload Identity Federation): no service account of Google, no key.

    Serving reads, and writes the programs that its engine has compiled for this model; staging writes.
    """
    serving, staging = names.serving_account(spec.name), names.staging_account(spec.name)
    return [
        _on_bucket(spec, serving, "roles/storage.objectViewer"),
        _on_bucket(spec, serving, "roles/storage.objectUser", programs_url(spec.weights_url, "")),
        _on_bucket(spec, staging, "roles/storage.objectUser"),
        _on_bucket(spec, staging, "roles/storage.legacyBucketReader"),  # to see where the bucket is
    ]


def _on_bucket(spec: Spec, account: str, role: str, below: str | None = None) -> Resource:
    """A role of a Kubernetes account on the whole bucket, or on what is below a URL in it."""
    pool = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{spec.cloud.project}.svc.id.goog"
    member = f"principal://iam.googleapis.com/{pool}/subject/ns/{spec.namespace}/sa/{account}"
    bucket = f"gs://{spec.bucket}"
    expression = _names_begin_with(spec.bucket, below.removeprefix(f"{bucket}/")) if below else None
    title = f"{role} on {below or 'the bucket'} for {account}"
    return _binding(title, ("storage", "buckets"), bucket, member, role, expression)


def _binding(title: str, what: Argv, name: str, member: str, role: str, expression: str | None = None) -> Resource:
    """A role of a member on a project or a bucket."""
    ending = member.rpartition(PROJECT_NUMBER)[2]  # a policy has the number itself
    # A policy with a condition takes no change that leaves the condition open.
    condition = f"expression={expression},title={member.rpartition('/')[2]}" if expression else "None"
    change = (name, f"--member={member}", f"--role={role}", f"--condition={condition}")

    def is_there(policy: Description) -> bool:
        granted = (policy or {}).get("bindings", [])
        same = [binding for binding in granted if binding["role"] == role and _condition(binding) == expression]
        return any(member.endswith(ending) for binding in same for member in binding["members"])

    return Resource(
        title,
        (*what, "get-iam-policy", name),
        ((*what, "add-iam-policy-binding", *change),),
        ((*what, "remove-iam-policy-binding", *change),),
        is_there=is_there,
    )


def _names_begin_with(bucket: str, prefix: str) -> str:
    """The condition as IAM wants it; it must be written the same way when the right is taken back."""
    return f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{prefix}")'


def _condition(binding: Description) -> str | None:
    return (binding.get("condition") or {}).get("expression")
