"""A laptop's server without keys answers programs of the machine, and no web page that its browser shows."""

from pathlib import Path

import httpx
import pytest

from tests.guard.served import Served, served

FOREIGN = [{"host": "attacker.example"}, {"origin": "https://attacker.example"}, {"origin": "null"}, {"host": "10.1.2.3:8000"}]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_web_pages_of_elsewhere_are_kept_out(tmp_path: Path, headers: dict[str, str]) -> None:
    with served(None, tmp_path, local=True) as server:
        answer = httpx.get(f"{server.url}/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
        assert "access-control-allow-origin" not in answer.headers
        assert _asked_from_here(server) == 200


def test_what_was_said_to_be_open_asks_for_no_host(tmp_path: Path) -> None:
    with served(None, tmp_path) as server:
        assert httpx.get(f"{server.url}/v1/models", headers={"host": "llm.example.com"}).status_code == 200


def _asked_from_here(server: Served) -> int:
    return httpx.get(f"{server.url}/v1/models", headers={"origin": "http://localhost:8000"}).status_code
