"""TPU generations and slices: chips, hosts, memory, rates and the names that Ray and GKE have for them.

The one place for these facts. Figures are per chip and nominal unless noted otherwise; None means that no source states one.
"""

import difflib
import math
from dataclasses import dataclass, replace

from apps.common.errors import UserError

GIB = 1024**3
_GB = 10**9
_TERA = 10**12
_CHIPS_PER_VM = 4  # of every multi-host slice; Ray's `get_chips_per_host` has the same rule


@dataclass(frozen=True)
class HostMachine:
    """A VM of four chips: what it has beside them."""

    vcpus: int
    memory_bytes: int


@dataclass(frozen=True)
class Generation:
    """One TPU generation."""

    name: str
    """Name in Ray's pod types, such as `v6e`."""
    accelerator_type: str
    """Ray's name, as `LLMConfig.accelerator_type` takes it."""
    pod_unit: int
    """What the number in a pod type counts: TensorCores per chip where that is 2 (`v5p-32` has 16 chips), else chips."""
    hbm_bytes: int
    bf16_flops: float
    """Peak FLOP/s."""
    hbm_bytes_per_s: float
    ici_bytes_per_s: float
    """Bidirectional, all links of a chip together."""
    machine_prefix: str
    """GKE machine type without the chip count: `ct6e-standard-` + `4t`."""
    gke_accelerator: str
    """Value of the node label `cloud.google.com/gke-tpu-accelerator`."""
    topologies: tuple[str, ...]
    single_host: tuple[str, ...]
    """Topologies that are one VM with all their chips."""
    int8_ops: float | None = None
    """Peak OP/s."""
    usable_hbm_bytes: int | None = None
    """Bytes that the TPU compiler lets a program use, where that was tried."""
    devices_per_chip: int = 1
    """Devices that JAX sees in a chip: over those vLLM TPU spreads a model."""
    host_machine: HostMachine | None = None
    """VM of a multi-host slice, where the source states it."""

    @property
    def usable_bytes(self) -> int:
        """Bytes of a chip that a program can use, as far as it is known."""
        return self.usable_hbm_bytes or self.hbm_bytes


@dataclass(frozen=True)
class Slice:
    """A topology of a generation: what is reserved, scheduled and lost as one."""

    generation: Generation
    topology: str
    chips: int
    hosts: int

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts

    @property
    def devices(self) -> int:
        """What tensor, data and pipeline parallelism multiply to."""
        return self.chips * self.generation.devices_per_chip

    def by_device(self) -> "Slice":
        """The slice as vLLM TPU sees it: each device is a chip, with its part of the chip's memory and rates."""
        own, count = self.generation, self.generation.devices_per_chip
        part = replace(
            own,
            hbm_bytes=own.hbm_bytes // count,
            usable_hbm_bytes=own.usable_hbm_bytes and own.usable_hbm_bytes // count,
            bf16_flops=own.bf16_flops / count,
            hbm_bytes_per_s=own.hbm_bytes_per_s / count,
            ici_bytes_per_s=own.ici_bytes_per_s / count,
            devices_per_chip=1,
        )
        return replace(self, generation=part, chips=self.devices)

    @property
    def pod_type(self) -> str:
        """Ray's label `ray.io/tpu-pod-type`, such as `v6e-16`."""
        prefix = self.generation.accelerator_type.lower().removeprefix("tpu-")
        return f"{prefix}-{self.chips * self.generation.pod_unit}"

    @property
    def host(self) -> HostMachine | None:
        """The machine of each host; None where it is not known."""
        return self.generation.host_machine if self.chips_per_host == _CHIPS_PER_VM else None

    @property
    def machine_type(self) -> str:
        """GKE machine type of each host."""
        return f"{self.generation.machine_prefix}{self.chips_per_host}t"

    @property
    def head_resource(self) -> str:
        """Ray resource of which each slice has one, on its worker 0."""
        return f"TPU-{self.pod_type}-head"


_SMALL_2D = ("1x1", "2x2", "2x4")
_2D = (*_SMALL_2D, "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(  # https://docs.cloud.google.com/tpu/docs/v5e
            name="v5e",
            accelerator_type="TPU-V5LITEPOD",
            pod_unit=1,
            hbm_bytes=16 * _GB,
            bf16_flops=197 * _TERA,
            int8_ops=393 * _TERA,
            hbm_bytes_per_s=819 * _GB,
            ici_bytes_per_s=400 * _GB,
            machine_prefix="ct5lp-hightpu-",
            gke_accelerator="tpu-v5-lite-podslice",
            topologies=_2D,
            single_host=_SMALL_2D,
        ),
        Generation(  # https://docs.cloud.google.com/tpu/docs/tpu7x (which compares v5p, v6e and TPU7x)
            name="v5p",
            accelerator_type="TPU-V5P",
            pod_unit=2,
            hbm_bytes=95 * GIB,
            bf16_flops=459 * _TERA,
            hbm_bytes_per_s=2765 * _GB,
            ici_bytes_per_s=1200 * _GB,
            machine_prefix="ct5p-hightpu-",
            gke_accelerator="tpu-v5p-slice",
            topologies=(*_3D, "16x16x16", "16x16x24"),
            single_host=("2x2x1",),
        ),
        Generation(  # https://docs.cloud.google.com/tpu/docs/v6e
            name="v6e",
            accelerator_type="TPU-V6E",
            pod_unit=1,
            hbm_bytes=32 * GIB,
            # libtpu's compiler for v6e:4x4 refuses what is larger: "exceeds available HBM (31.24G)".
            usable_hbm_bytes=int(31.24 * GIB),
            bf16_flops=918 * _TERA,
            int8_ops=1836 * _TERA,
            hbm_bytes_per_s=1638 * _GB,
            ici_bytes_per_s=800 * _GB,
            machine_prefix="ct6e-standard-",
            gke_accelerator="tpu-v6e-slice",
            topologies=_2D,
            single_host=_SMALL_2D,
            host_machine=HostMachine(vcpus=180, memory_bytes=720 * _GB),
        ),
        Generation(  # https://docs.cloud.google.com/tpu/docs/tpu7x
            name="v7x",
            accelerator_type="TPU-V7X",
            pod_unit=2,
            hbm_bytes=192 * GIB,
            bf16_flops=2307 * _TERA,
            hbm_bytes_per_s=7380 * _GB,
            ici_bytes_per_s=1200 * _GB,
            machine_prefix="tpu7x-standard-",
            gke_accelerator="tpu7x",
            topologies=_3D,
            single_host=("2x2x1",),
            devices_per_chip=2,
        ),
    )
}
_BY_ACCELERATOR_TYPE = {generation.accelerator_type: generation for generation in GENERATIONS.values()}


def slice_of(name: str, topology: str) -> Slice:
    """The slice of a generation (`v6e` or `TPU-V6E`) and a topology (`4x4`).

    Raises:
        UserError: no such generation, or no such topology of it; the message names the valid ones.
    """
    generation = GENERATIONS.get(name) or _BY_ACCELERATOR_TYPE.get(name)
    if generation is None:
        close = difflib.get_close_matches(name.upper(), _BY_ACCELERATOR_TYPE, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"{name!r} is no TPU generation: give one of {', '.join(_BY_ACCELERATOR_TYPE)}{hint}")
    if topology not in generation.topologies:
        raise UserError(f"{generation.name} has no topology {topology!r}: give one of {', '.join(generation.topologies)}")
    chips = math.prod(int(side) for side in topology.split("x"))
    hosts = 1 if topology in generation.single_host else chips // _CHIPS_PER_VM
    return Slice(generation, topology, chips, hosts)
