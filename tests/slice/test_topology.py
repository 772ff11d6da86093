"""Slices, against Ray's own tables."""

import pytest

from apps.common.errors import UserError
from apps.slice.topology import GENERATIONS, GIB, Generation, Slice, slice_of

ALL = [slice_of(g.name, topology) for g in GENERATIONS.values() for topology in g.topologies]


def test_the_slice_of_the_tutorial() -> None:
    shape = slice_of("TPU-V6E", "4x4")
    assert (shape.chips, shape.hosts, shape.chips_per_host) == (16, 4, 4)
    assert (shape.pod_type, shape.machine_type) == ("v6e-16", "ct6e-standard-4t")
    assert shape.generation.gke_accelerator == "tpu-v6e-slice"
    assert shape.generation.usable_hbm_bytes == pytest.approx(31.24 * GIB, abs=1)


def test_a_single_host_slice_has_all_its_chips_on_one_machine() -> None:
    assert slice_of("v6e", "2x4").machine_type == "ct6e-standard-8t"
    assert slice_of("v5p", "2x2x1").hosts == 1


@pytest.mark.parametrize("shape", ALL, ids=lambda s: f"{s.generation.name}-{s.topology}")
def test_ray_sees_the_same_slice(shape: Slice) -> None:
    from ray._private.accelerators import tpu

    version = shape.pod_type.rpartition("-")[0]
    assert shape.topology in tpu.VALID_TPU_TOPOLOGY[version]
    assert tpu.get_chips_per_host(shape.topology, version) == shape.chips_per_host
    assert tpu.infer_tpu_pod_type_from_topology(shape.topology, shape.generation.accelerator_type) == shape.pod_type


@pytest.mark.parametrize("generation", GENERATIONS.values(), ids=lambda g: g.name)
def test_ray_knows_the_accelerator_type(generation: Generation) -> None:
    from ray.util.accelerators import accelerators

    known = {value for name, value in vars(accelerators).items() if name.startswith("GOOGLE_TPU")}
    assert generation.accelerator_type in known


def test_an_impossible_topology_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"v6e has no topology '5x5': give one of 1x1, 2x2, 2x4, 4x4"):
        slice_of("v6e", "5x5")


def test_an_unknown_generation_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'TPU-V6' .* TPU-V6E.*did you mean TPU-V6E"):
        slice_of("TPU-V6", "4x4")
