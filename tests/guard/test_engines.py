"""What the TPU engine cannot do: without the table the engine of a whole slice dies, with it nothing happens to others.

The simulated engine behaves as the real one does, by facts of its own (`emulation/sim/faults.py`).
"""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from apps.guard.engines import INABILITIES, Inability, Outcome, flavour_of, without_effect
from tests.guard.served import HELLO, MODEL, Keys, Served, ask, events, post, served, wait_for

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("prompt_logprobs", CHAT, {"prompt_logprobs": 0}),
    ("prompt_logprobs", COMPLETIONS, {"prompt_logprobs": 1}),
    ("echo", CHAT, {"echo": True}),
    ("echo", COMPLETIONS, {"echo": True, "logprobs": 1}),
    ("allowed_token_ids", COMPLETIONS, {"allowed_token_ids": [5]}),
    ("logprobs", CHAT, {"logprobs": True}),
    ("logprobs", COMPLETIONS, {"logprobs": 0}),
    ("seed", CHAT, {"seed": 0}),
    ("seed", COMPLETIONS, {"seed": 5, "temperature": 0.5}),
    ("presence_penalty", CHAT, {"presence_penalty": 0.5}),
    ("frequency_penalty", CHAT, {"frequency_penalty": -1}),
    ("repetition_penalty", COMPLETIONS, {"repetition_penalty": 1.1}),
    ("min_p", COMPLETIONS, {"min_p": 0.1}),
    ("logit_bias", CHAT, {"logit_bias": {"5": 1}}),
    ("bad_words", COMPLETIONS, {"bad_words": ["x"]}),
    ("min_tokens", COMPLETIONS, {"min_tokens": 5}),
    ("thinking_token_budget", CHAT, {"thinking_token_budget": 5}),
]
TABLE: dict[str, Inability] = {inability.field: inability for inability in INABILITIES["vllm-tpu"]}
HARMLESS = (Outcome.REFUSED, Outcome.IGNORED)


def body(path: str, more: dict[str, Any]) -> dict[str, Any]:
    text = {"messages": HELLO} if path == CHAT else {"prompt": "Hello there"}
    return {"model": MODEL, "max_tokens": 6, "ignore_eos": True, **text, **more}


def test_every_inability_is_tried_and_has_its_source() -> None:
    assert {field for field, _, _ in ASKED} == TABLE.keys()
    assert all(inability.source for inability in TABLE.values())


@pytest.mark.parametrize(("field", "path", "more"), ASKED)
def test_without_the_table_it_goes_as_the_table_says(field: str, path: str, more: dict[str, Any], tmp_path: Path) -> None:
    with served(None, tmp_path, flavour="vllm-cpu") as server:
        plain = post(server, None, body(path, {}), path).json()["choices"]
        answer = post(server, None, body(path, more), path)
        after = post(server, None, body(path, {}), path).status_code
    expected = {
        Outcome.ENDS: (500, 500),
        Outcome.FAILS: (500, 200),
        Outcome.REFUSED: (400, 200),
        Outcome.IGNORED: (200, 200),
    }
    assert (answer.status_code, after) == expected[TABLE[field].outcome]
    if TABLE[field].outcome is Outcome.IGNORED:
        assert answer.json()["choices"] == plain


def test_without_the_table_one_request_ends_everybodys_answer(tmp_path: Path) -> None:
    with served(None, tmp_path, flavour="vllm-cpu") as server:
        texts: list[str] = []
        long = body(COMPLETIONS, {"max_tokens": 4000, "stream": True})
        neighbour = threading.Thread(target=lambda: texts.append(post(server, None, long).text))
        neighbour.start()
        assert server.simulation
        scheduler = server.simulation.scheduler
        wait_for(lambda: scheduler.running, 10, "the neighbour's answer")
        assert post(server, None, body(COMPLETIONS, {"prompt_logprobs": 1})).status_code == 500
        neighbour.join(10)
        assert events(texts[0])[-1]["error"]["code"] == 500
        assert post(server, None, {}, "/health").status_code != 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("guarded")
    keys = Keys(folder / "keys.json")
    keys.make("alice")
    with served(keys, folder) as server:
        yield server, keys.texts["alice"]


@pytest.mark.parametrize(("field", "path", "more"), ASKED)
def test_with_the_table_it_is_a_400_and_nothing_else_happens(
    field: str, path: str, more: dict[str, Any], guarded: tuple[Served, str]
) -> None:
    server, key = guarded
    for stream in (False, True):
        answer = post(server, key, body(path, {**more, "stream": stream}), path)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
        assert "vLLM on TPU" in error["message"]
    assert post(server, key, body(path, {}), path).status_code == 200


NEUTRAL: dict[str, Any] = {
    **{"seed": None, "presence_penalty": 0.0, "frequency_penalty": 0, "repetition_penalty": 1.0, "min_p": 0.0},
    **{"logit_bias": {}, "bad_words": [], "min_tokens": 0, "logprobs": None, "prompt_logprobs": None, "echo": False},
    **{"allowed_token_ids": None, "thinking_token_budget": None, "logprob_token_ids": None},
}


@pytest.mark.parametrize("more", [NEUTRAL, {"seed": 5, "temperature": 0}, {"seed": 5, "temperature": 0.0}])
def test_neutral_values_are_fine(more: dict[str, Any], guarded: tuple[Served, str]) -> None:
    server, key = guarded
    for path in (CHAT, COMPLETIONS):
        answer = post(server, key, body(path, more), path)
        assert (answer.status_code, answer.headers.get("warning")) == (200, None), answer.text


@pytest.mark.parametrize(("field", "path", "more"), [case for case in ASKED if TABLE[case[0]].outcome in HARMLESS])
def test_by_a_setting_what_has_no_effect_is_left_out_with_a_warning(
    field: str, path: str, more: dict[str, Any], tmp_path: Path
) -> None:
    with served(None, tmp_path, ineffective_fields="warn") as server:
        plain = post(server, None, body(path, {}), path)
        answer = post(server, None, body(path, more), path)
        assert (answer.status_code, answer.json()["choices"]) == (200, plain.json()["choices"])
        assert answer.headers["warning"] == f'299 - "without effect on vLLM on TPU, and left out: {field}"'
        assert "warning" not in plain.headers
        assert post(server, None, body(path, {**more, "prompt_logprobs": 1}), path).status_code == 400


def test_openais_client_with_a_seed_gets_its_answer_where_the_setting_says_warn(tmp_path: Path) -> None:
    with served(None, tmp_path, ineffective_fields="warn") as server:
        answer = ask(server.client(), seed=7, stream=True)
        assert answer.response.headers["warning"].endswith('left out: seed"')
        assert [chunk for chunk in answer if chunk.choices][-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("more", [more for _, _, more in ASKED])
def test_vllm_on_the_cpu_can_do_all_of_it(more: dict[str, Any]) -> None:
    assert without_effect({"prompt": "x", **more}, "vllm-cpu", drop=False) == []


def test_the_config_says_the_flavour() -> None:
    cpu, tpu = {"accelerator_config": {"kind": "cpu"}}, {"accelerator_config": {"kind": "tpu", "topology": "4x4"}}
    assert [flavour_of(configs) for configs in ([cpu], [tpu], [cpu, tpu])] == ["vllm-cpu", "vllm-tpu", "vllm-tpu"]


def test_the_document_names_each_field() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    section = text[text.index("## What the TPU engine cannot do") :].split("\n## ")[0]
    rows = {line.split("|")[1].split(":")[0].strip(): line for line in section.splitlines() if line.startswith("| `")}
    listed = {outcome: rows[f"`{outcome.name}`"].split("|")[2].split(",") for outcome in Outcome}
    documented = {outcome: {name.strip(" `") for name in names} for outcome, names in listed.items()}
    known = {outcome: {name for name, inability in TABLE.items() if inability.outcome is outcome} for outcome in Outcome}
    assert documented == known, json.dumps({name: inability.outcome.name for name, inability in TABLE.items()})
