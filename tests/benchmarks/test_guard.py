"""The guard's own cost stays where its documents have it: both figures against other work in the same run."""

from pathlib import Path

import pytest

from tests.perf.guard.cost import open_settings, own_cost
from tests.perf.guard.parts import by_part

_TOKENS = 128  # of an answer, as in the load that is measured


def test_a_token_costs_less_than_to_send_it_and_a_request_less_than_its_tokens(tmp_path: Path) -> None:
    key, settings = open_settings(tmp_path)
    cost = own_cost(settings, key)
    print(f"\nthe guard's own cost: {cost}")
    assert (
        0 < cost["token_us"] < 2 * cost["stream_token_us"]
    )  # which does nothing but hand it on: one of a web server takes 40 times as long
    assert 0 < cost["request_us"] < _TOKENS * cost["stream_token_us"]


@pytest.mark.full
def test_the_parts_make_up_a_request(tmp_path: Path) -> None:
    key, settings = open_settings(tmp_path)
    parts, whole = by_part(settings, key), own_cost(settings, key, at_once=1)
    print(f"\nby part: {parts}, whole: {whole}")
    request_us = sum(us for name, us in parts.items() if name != "token")
    assert 0.3 * whole["request_us"] < request_us < 1.2 * whole["request_us"]
