"""The guard's own cost stays where its documents have it: far below what a stream's chunk costs a web server."""

from pathlib import Path

from tests.perf.guard.cost import open_settings, own_cost


def test_a_request_and_a_token_cost_microseconds(tmp_path: Path) -> None:
    key, settings = open_settings(tmp_path)
    cost = own_cost(settings, key)
    print(f"\nthe guard's own cost: {cost}")
    assert 0 < cost["token_us"] < 10
    assert 0 < cost["request_us"] < 1000
