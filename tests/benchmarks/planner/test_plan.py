"""The plan: figures worked out by hand for Gemma 4 31B on v6e 4x4, and what must hold whatever is asked."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.slice.memory import kv_bytes_per_chip
from apps.slice.roofline import ceilings
from apps.slice.topology import GENERATIONS, GIB, slice_of
from benchmarks.planner.candidates import Status
from benchmarks.planner.plan import Slo, plan, usd_per_million_output_tokens
from benchmarks.planner.predict import Point, Workload, group_sides
from tests.benchmarks.planner.questions import question, rows

ASKED = question()
PLANNED = rows(ASKED)
SLO = st.builds(Slo, st.floats(0.05, 10), st.floats(0.005, 0.5))


def test_all_parallelisms_and_types_are_compared() -> None:
    assert {name.split("/")[0] for name in PLANNED} >= {"TP16", "DP2xTP8", "DP4xTP4", "PP4xTP4"}
    for cut in ("TP16", "DP2xTP8", "DP4xTP4", "PP4xTP4"):
        assert {f"{cut}/{types}" for types in ("bf16/bf16", "bf16/fp8", "fp8/fp8", "w4/bf16")} <= set(PLANNED)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        # (30.7e9 text + 0.55e9 vision) x 2 bytes over the chips of a group
        ("TP16/bf16/bf16", 62.5e9 / 16 / GIB),
        ("DP2xTP8/bf16/bf16", 62.5e9 / 8 / GIB),
        ("DP4xTP4/bf16/bf16", 62.5e9 / 4 / GIB),
        # 29.3e9 of layers x 1 byte, embedding 1.41e9 and vision 0.55e9 x 2 bytes
        ("TP16/fp8/fp8", (29.3e9 + 3.92e9) / 16 / GIB),
        # 15 of 60 layers, and the embedding of the first and last stage
        ("PP4xTP4/bf16/bf16", (29.3e9 / 4 + 1.41e9 + 0.55e9) * 2 / 4 / GIB),
    ],
)
def test_weights_per_chip(name: str, gib: float) -> None:
    assert PLANNED[name].footprint.weight_bytes / GIB == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        # (50 sliding layers x heads x 256 + 10 global x heads x 512) x keys and values x bytes, heads as a chip stores them
        ("TP16/bf16/bf16", (50 * 1 * 256 + 10 * 1 * 512) * 2 * 2),
        ("DP2xTP8/bf16/bf16", (50 * 2 * 256 + 10 * 1 * 512) * 2 * 2),
        ("DP4xTP4/bf16/bf16", (50 * 4 * 256 + 10 * 1 * 512) * 2 * 2),
        ("DP2xTP8/bf16/fp8", (50 * 2 * 256 + 10 * 2 * 512) * 2),  # a lone global head fills half of its 32-bit words
        ("TP16/bf16/fp8", (50 * 2 * 256 + 10 * 2 * 512) * 2),  # so fp8 saves nothing here
    ],
)
def test_a_token_of_kv_cache(name: str, bytes_per_token: int) -> None:
    row = PLANNED[name]
    assert kv_bytes_per_chip(row.candidate.layout, 1) == bytes_per_token
    assert row.sequences[8192] == row.candidate.layout.data_parallel * int(row.kv_budget_bytes / bytes_per_token / 8192)


def test_all_weights_are_read_from_the_bucket_once_and_a_price_is_for_all_chips() -> None:
    point = Point(sequences=100, tpot_s=0.01, ttft_s=0.1, requests_per_s=40, output_tok_per_s=10_000)
    assert usd_per_million_output_tokens(point, ASKED) == pytest.approx(16 * 2.7 / 3600 / 10_000 * 1e6)
    assert usd_per_million_output_tokens(None, ASKED) is None


def test_groups_are_as_square_as_they_can_be() -> None:
    assert [group_sides(ASKED.on, chips) for chips in (1, 2, 4, 8, 16)] == [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4)]
    two_devices_a_chip = slice_of("v7x", "2x2x2").by_device()
    assert [group_sides(two_devices_a_chip, devices) for devices in (2, 4, 16)] == [(1, 1, 1), (2, 1, 1), (2, 2, 2)]


def test_what_fails_upstream_is_marked_as_broken() -> None:
    assert all(PLANNED[name].candidate.status is Status.BROKEN for name in PLANNED if name.startswith("PP"))
    assert PLANNED["TP16/bf16/bf16"].candidate.status is Status.UNTESTED
    assert rows(question(topology="2x4"))["TP8/bf16/bf16"].candidate.status is Status.PASSING


def test_what_does_not_fit_is_no_candidate() -> None:
    """31.2e9 parameters of 2 bytes need 29.1 GiB on each of 2 chips, and 0.9 x 31.24 GiB are 28.1."""
    assert not PLANNED["DP8xTP2/bf16/bf16"].fits
    assert PLANNED["DP8xTP2/fp8/fp8"].fits


@pytest.mark.parametrize("name", PLANNED)
def test_longer_contexts_leave_room_for_fewer(name: str) -> None:
    held = list(PLANNED[name].sequences.values())
    assert held == sorted(held, reverse=True)


@settings(deadline=None)  # a busy machine is no fault of the plan
@given(slo=SLO, prompt=st.integers(1, 20_000), output=st.integers(1, 4000))
def test_predictions_keep_below_the_ceilings_and_within_the_slo(slo: Slo, prompt: int, output: int) -> None:
    asked = question(slo=slo)
    asked = type(asked)(**{**vars(asked), "work": Workload(prompt, output)})
    for row in rows(asked).values():
        for point in (row.within_slo.slow, row.within_slo.fast):
            if point is None:
                continue
            assert point.tpot_s <= slo.tpot_s
            assert point.ttft_s <= slo.ttft_s
            limits = ceilings(row.candidate.layout, asked.on.generation, point.sequences, context=prompt, prompt=prompt)
            assert (
                limits.refusals(
                    output_tok_per_s=point.output_tok_per_s,
                    prompt_tok_per_s=point.requests_per_s * prompt,
                    tpot_s=point.tpot_s,
                    ttft_s=point.ttft_s,
                )
                == []
            ), row.candidate.name


@settings(deadline=None)  # a busy machine is no fault of the plan
@given(SLO, st.floats(1, 5))
def test_a_looser_slo_never_serves_less(slo: Slo, more: float) -> None:
    strict, loose = (rows(question(slo=limits)) for limits in (slo, Slo(slo.ttft_s * more, slo.tpot_s * more)))
    for name, row in strict.items():
        for before, after in (
            (row.within_slo.slow, loose[name].within_slo.slow),
            (row.within_slo.fast, loose[name].within_slo.fast),
        ):
            assert before is None or (after is not None and after.requests_per_s >= before.requests_per_s)


def test_the_same_chips_are_also_cut_into_slices_of_one_host() -> None:
    by_slices = {(row.replicas, row.on.topology) for row in plan(ASKED)}
    assert by_slices == {(1, "4x4"), (2, "2x4"), (4, "2x2"), (16, "1x1")}
    whole = {row.name: row for row in plan(ASKED)}
    one_slice = rows(question(topology="2x4"))["TP8/bf16/bf16"].within_slo.slow
    both = whole["2 x 2x4 TP8/bf16/bf16"].within_slo.slow
    assert one_slice
    assert both == one_slice.times(2)


def test_a_cached_prefix_and_accepted_drafts_serve_more() -> None:
    def rate(work: Workload) -> float:
        point = rows(replace(ASKED, work=work))["TP16/bf16/bf16"].within_slo.slow
        assert point
        return point.requests_per_s

    plain = rate(Workload(1024, 256))
    assert rate(Workload(1024, 256, cached=0.9)) > plain
    assert rate(Workload(1024, 256, accepted=(0.9, 0.8))) > plain
    assert rate(Workload(1024, 256, accepted=(0.0,))) < plain  # nothing accepted: the draft only costs


@pytest.mark.parametrize("name", list(GENERATIONS))
def test_every_generation_has_a_plan(name: str) -> None:
    generation = GENERATIONS[name]
    for topology in generation.topologies[:5]:
        asked = replace(ASKED, on=slice_of(name, topology))
        for row in plan(asked):
            assert row.candidate.layout.chips == row.on.devices
            assert row.on.chips * row.replicas == asked.on.chips
