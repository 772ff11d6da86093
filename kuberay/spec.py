"""The one file that describes a deployment: what is wanted, in a person's words. Everything else is derived from it.

Reads and checks the file; knows nothing of manifests.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from apps.checks.arguments import against_model
from apps.checks.source import read
from apps.common.errors import UserError
from apps.slice.topology import Slice, slice_of
from kuberay import names
from kuberay.objects import parse_quantity
from kuberay.platform_spec import Expose, Overlay, Strict, matching

_PROJECT = Path(__file__).parents[1]
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_IMAGE = re.compile(r"(?P<name>[a-z0-9]+(?:[._:/-]+[a-z0-9]+)*?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")
_PLACE = re.compile(r"[a-z]+-[a-z]+[0-9]+(-[a-z])?")
_COLLECTOR = re.compile(r"https?://[^\s/:]+:\d+")
_USER = re.compile(r"(user|group|serviceAccount):\S+@\S+")


def _quantity(value: str) -> str:
    parse_quantity(value)
    return value


Quantity = Annotated[str, AfterValidator(_quantity)]


def _switch(value: object) -> object:
    """Read YAML's bare `off`, which is false, and `true`, from before there was a choice."""
    return {True: "gmp", False: "off"}[value] if isinstance(value, bool) else value


Metrics = Annotated[Literal["gmp", "operator", "off"], BeforeValidator(_switch)]
"""Who reads metrics and rules: Google's managed Prometheus, the Prometheus operator, or nobody."""


class SecretKey(Strict):
    """A key of a Kubernetes secret that exists already; what it holds never comes near this tool."""

    name: str  # of the secret, in the deployment's namespace
    key: str  # within the secret


class Cloud(Strict):
    """Place in Google Cloud. `mode` is GKE's, `cluster` its name there; `rapid_cache` keeps the bucket's data in the zone."""

    project: Annotated[str, matching(re.compile(r"[a-z][-a-z0-9]{4,28}[a-z0-9]"), "is no project id (6 to 30 of a-z, 0-9, -)")]
    """Id of the Google Cloud project."""
    region: Annotated[str, matching(_PLACE, "is no region such as us-east5")]  # such as us-east5
    zone: Annotated[str, matching(_PLACE, "is no zone such as us-east5-b")]  # such as us-east5-b
    cluster: str  # name of the GKE cluster
    mode: Literal["standard", "autopilot"] = "standard"  # of the GKE cluster
    channel: Literal["regular", "rapid"] = "regular"  # of the GKE cluster's versions
    regional: bool = False  # a Standard cluster's control plane in the region; its TPU nodes stay in the zone
    network: str | None = None  # of the VPC, projects/HOST/global/networks/NAME of a shared one; none: the project's `default`
    subnetwork: str | None = None  # of that network, in the region
    private_nodes: bool = False  # nodes without addresses of the internet; images and weights then need Private Google Access
    node_account: str | None = None  # e-mail of a Google service account for the nodes; none: `gke.py up` makes one
    kms_key: str | None = None  # projects/.../cryptoKeys/NAME, for the bucket and the nodes' disks; none: Google's own
    rapid_cache: bool = True  # keep the bucket's data in the zone

    @model_validator(mode="after")
    def _zone_is_in_region(self) -> "Cloud":
        if not self.zone.startswith(f"{self.region}-"):
            raise ValueError(f"zone {self.zone!r} is not in region {self.region!r}: give one such as {self.region}-a")
        return self


class Capacity(Strict):
    """How the TPU hosts are bought. A reservation is named."""

    kind: Literal["on-demand", "spot", "flex-start", "reservation"] = "on-demand"  # how they are bought
    reservation: str | None = None  # its name, or projects/PROJECT/reservations/NAME of a shared one

    @model_validator(mode="after")
    def _reservation_is_named(self) -> "Capacity":
        if (self.kind == "reservation") != (self.reservation is not None):
            raise ValueError("give the name under `reservation` where, and only where, `kind` is reservation")
        return self


def _choices(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


class TpuSlice(Strict):
    """The slices: one replica of the model takes one. `cpu` and `memory` are for each host's pod."""

    generation: str = "v6e"  # as in apps/slice/topology.py
    topology: str  # such as 4x4
    count: int = Field(default=1, ge=1, le=64)
    """How many slices; each replica of the model takes one."""
    capacity: Annotated[tuple[Capacity, ...], BeforeValidator(_choices), Field(min_length=1)] = (Capacity(),)
    """How the hosts are bought: one way, or a list that GKE tries in this order (a ComputeClass)."""
    network: Literal["dranet", "none"] = "dranet"  # `dranet`: each host gets all its network interfaces
    cpu: Quantity = "100"  # of each host's pod
    memory: Quantity = "400Gi"  # of each host's pod
    run_as_root: bool = False  # only if libtpu may not open the chips' device files as another user
    capabilities: tuple[Literal["SYS_RESOURCE", "IPC_LOCK", "SYS_NICE"], ...] = ()  # only if libtpu may not lock memory without

    @property
    def shape(self) -> Slice:
        """Raises `UserError` for a generation or topology that does not exist."""
        return slice_of(self.generation, self.topology)

    @model_validator(mode="after")
    def _exists(self) -> "TpuSlice":
        try:
            host = self.shape.host
        except UserError as error:
            raise ValueError(str(error)) from None
        for name, limit in (("cpu", host and host.vcpus), ("memory", host and host.memory_bytes)):
            if limit and parse_quantity(getattr(self, name)) > limit:
                raise ValueError(f"{name} is {getattr(self, name)}, and a {self.shape.machine_type} has {limit:,}")
        return self


class Head(Strict):
    """Ray's head: control store, dashboard, Serve's controller. No model runs on it."""

    cpu: Quantity = "4"  # of its pod
    memory: Quantity = "16Gi"  # of its pod


class Model(Strict):
    """What is served. `serve_config` is a path, from the spec's file or else from this project; `directory` the model's own in
    the bucket."""

    id: str  # of the hub, such as google/gemma-4-31B-it
    serve_config: Path  # a path from this file, or else from the project's root
    revision: str | None = None  # branch, tag or commit on the hub; none: its main branch
    directory: str | None = None  # in the bucket; none: the model's name in lower case


class Redis(Strict):
    """An external Redis that keeps the head's state, so that a lost head loses no app."""

    address: Annotated[str, matching(re.compile(r"\S+:\d+"), "is no host:port")]
    """HOST:PORT."""
    password: SecretKey | None = None  # none: Redis asks for none


User = Annotated[str, matching(_USER, "is no user:..., group:... or serviceAccount:... with an address")]


class Users(Strict):
    """Who may do what in the namespace. Each group may also do what those before it may."""

    viewers: tuple[User, ...] = ()  # may see status and logs
    deployers: tuple[User, ...] = ()  # may also deploy and forward
    admins: tuple[User, ...] = ()  # may also apply, park, unpark and remove


class Spec(Strict):
    """A deployment."""

    name: str  # of the RayCluster or RayService
    namespace: str = "default"  # for this deployment alone
    kind: Literal["RayCluster", "RayService"] = "RayCluster"  # `RayService`: KubeRay itself deploys the Serve config
    image: str  # with a tag other than latest, or better a digest
    cloud: Cloud  # the Google Cloud project and the GKE cluster
    slices: TpuSlice  # TPU slices
    model: Model  # what is served
    bucket: Annotated[str, matching(_BUCKET, "is no bucket name (3 to 63 of a-z, 0-9, -, _ and .)")]
    """Name of the bucket that weights and compiled programs are in."""
    head: Head = Head()  # Ray's head
    auth: Literal["token", "none"] = "token"  # `token`: Ray's dashboard, jobs and client ask for the cluster's token
    hub_token: SecretKey | None = None  # Hugging Face token, read by the staging job alone
    api_keys: str | None = None  # secret with keys.json, mounted at /etc/guard
    fault_tolerance: Redis | None = None  # an external Redis
    metrics: Metrics = "gmp"  # who reads metrics and rules: Google's managed Prometheus, the Prometheus operator, nobody
    metrics_labels: dict[str, str] = Field(default={})  # by which the operator's Prometheus selects; with `metrics: operator`
    traces: Annotated[str, matching(_COLLECTOR, "is no collector such as http://HOST:4317 (OTLP over gRPC)")] | None = None
    """Where OpenTelemetry traces go (OTLP over gRPC); none: nowhere."""
    expose: Expose | None = None  # an address that people reach
    overlay: Overlay = Overlay()  # what a platform team adds
    _folder: Path = PrivateAttr(default=Path())
    users: Users = Users()  # of Google Cloud, and their rights in the namespace

    @property
    def has_compute_class(self) -> bool:
        """Whether GKE makes the hosts' nodes by itself, as a ComputeClass says, and not from node pools of `gke.py`."""
        return self.cloud.mode == "autopilot" or len(self.slices.capacity) > 1

    @property
    def secrets(self) -> dict[str, list[str]]:
        """Secrets that people make, each with the keys that are read of it."""
        redis = self.fault_tolerance.password if self.fault_tolerance else None
        guard = SecretKey(name=self.api_keys, key="keys.json") if self.api_keys else None
        keys: dict[str, list[str]] = {}
        for secret in (self.hub_token, redis, guard):
            if secret:
                keys.setdefault(secret.name, []).append(secret.key)
        return keys

    @property
    def weights_url(self) -> str:
        """The URL that the model is staged at."""
        return f"gs://{self.bucket}/{self.model.directory or self.model.id.rpartition('/')[2].lower()}"

    @property
    def serve_config_path(self) -> Path:
        """A copy of the example anywhere still finds this project's own Serve configs."""
        beside = self._folder / self.model.serve_config
        return beside if beside.exists() else _PROJECT / self.model.serve_config

    @model_validator(mode="after")
    def _is_possible(self) -> "Spec":
        longest = names.LONGEST_CLUSTER_NAME if self.kind == "RayCluster" else names.LONGEST_SERVICE_NAME
        if not names.DNS_1035.fullmatch(self.name) or len(self.name) > longest:
            raise ValueError(
                f"name {self.name!r}: at most {longest} lower-case letters, digits and dashes, beginning with a letter; with a "
                "longer one GKE's TPU webhook gives hosts addresses that do not exist (kuberay#2923)"
            )
        if not names.DNS_1123.fullmatch(self.namespace):
            raise ValueError(f"namespace {self.namespace!r}: at most 63 lower-case letters, digits and dashes")
        if self.metrics_labels and self.metrics != "operator":
            raise ValueError("metrics_labels are what a Prometheus of the operator selects: give them with `metrics: operator`")
        if self.expose and not self.api_keys:
            raise ValueError("what people reach needs keys: name the secret with keys.json under api_keys")
        image = _IMAGE.fullmatch(self.image)
        if not image or not (image["tag"] or image["digest"]) or (image["tag"] == "latest" and not image["digest"]):
            raise ValueError(f"image {self.image!r}: give a tag other than latest, or better a digest (name@sha256:...)")
        return self


def load(path: Path) -> Spec:
    """The spec in a file.

    Raises:
        UserError: the file cannot be read, or wants what is not possible: a line for each finding, with file and line.
    """
    source = read(path)
    if findings := against_model(Spec, source.content):
        lines = sorted((source.line(finding.path), str(finding)) for finding in findings)
        raise UserError("\n".join(f"{path}:{line}: {text}" for line, text in lines))
    spec = Spec(**source.content)
    spec._folder = path.resolve().parent
    return spec
