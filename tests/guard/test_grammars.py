"""Grammars that would end, hold up or fill a server are refused with words; good ones pass; nobody else waits for either."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from apps.guard.answers import Refusal
from apps.guard.grammars import find_grammars
from apps.guard.settings import Grammars
from tests.guard import nasty_grammars
from tests.guard.hostile import drawn
from tests.guard.served import HELLO, MODEL, Keys, Served, served, wait_for

TREE = {"$defs": {"t": {"type": "object", "properties": {"left": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"}
CHAIN = {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(30_000)}, "$ref": "#/$defs/d0"}


def of_schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def of_output(**outputs: Any) -> dict[str, Any]:
    return {"structured_outputs": outputs}


def of_tool(schema: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], **more}


def of_tag(schema: Any) -> dict[str, Any]:
    tag = {"begin": "<f>", "schema": schema, "end": "</f>"}
    return {"response_format": {"type": "structural_tag", "structures": [tag], "triggers": ["<f>"]}}


LENGTHS = {"type": "string", "minLength": 5, "maxLength": 100_005}
BAD = {
    "pattern": (of_schema({"type": "string", "pattern": "(" * 60_000 + "a" + ")" * 60_000}), "120001 characters"),
    "deep pattern": (of_schema({"type": "string", "pattern": "(" * 90 + "a" + ")" * 90}), "nested deeper than 64"),
    "chain": (of_schema(CHAIN), "lead from one to the next"),
    "itself": (of_schema({"$ref": "#"}), "leads back to itself"),
    "itself by another": (of_schema({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "leads back to itself"),
    "nowhere": (of_schema({"$ref": "#/$defs/none"}), "leads to no schema"),
    "foreign": (of_schema({"$ref": "http://example.com/schema"}), "leads to no schema"),
    "lengths": (of_schema(LENGTHS), "maxLength may be at most 10000"),
    "a number beyond any": (of_schema({"type": "array", "minItems": 1e300}), "minItems may be at most 10000"),
    "no schema": ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "must be an object with a name"),
    "json text": (of_output(json="[" * 5000 + "]" * 5000), "must be a JSON object"),
    "deep json text": (of_output(json='{"items":' * 500 + "{}" + "}" * 500), "nested deeper than 64"),
    "schema as text": (of_output(json=json.dumps(LENGTHS)), "maxLength may be"),
    "regex": (of_output(regex="a{20000}"), "more than 10000 times"),
    "long count": (of_output(regex="a{" + "9" * 4000 + "}"), "more than 10000 times"),
    "regex type": (of_output(regex=["a"]), "must be a string"),
    "choice": (of_output(choice=["x"] * 5000), "5000 entries"),
    "choice type": (of_output(choice="x"), "must be a list of strings"),
    "rules": (of_output(grammar="\n".join(f'r{n} ::= "a"' for n in range(600))), "600 rules"),
    "alternatives": (of_output(grammar="root ::= " + " | ".join(['"a"'] * 3000)), "2999 alternatives"),
    "lark": (of_output(grammar='start: "a"'), "must be in EBNF"),
    "tag": (of_tag(LENGTHS), "maxLength may be"),
    "tag text": (of_output(structural_tag=json.dumps(of_tag({"$ref": "#"})["response_format"])), "leads back"),
    "forced tool": (of_tool(LENGTHS, tool_choice="required"), "maxLength may be"),
    "named tool": (of_tool(LENGTHS, tool_choice={"type": "function", "function": {"name": "f"}}), "maxLength may be"),
    "properties": (of_schema({"properties": {f"p{n}": {} for n in range(600)}}), "600 properties"),
    "enum": (of_schema({"enum": list(range(2000))}), "2000 entries"),
    "bytes": (of_schema({"description": "x" * 200_000}), "at most 131072 are compiled"),
}
GOOD = {
    "object": {"response_format": {"type": "json_object"}},
    "schema": of_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    "tree": of_schema(TREE),
    "root": of_schema({"type": "object", "properties": {"next": {"$ref": "#"}}}),
    "property names": of_schema({"type": "object", "properties": {"pattern": {"type": "string"}, "maxLength": {"enum": [1]}}}),
    "text": of_output(json='{"type": "integer"}'),
    "regex": of_output(regex=r"\d{3}-\d{4}"),
    "choice": of_output(choice=["yes", 'no "really"', "back\\slash"]),
    "grammar": of_output(grammar='root ::= "a" root | "b"'),
    "tag": of_tag({"type": "integer"}),
    "forced tool": of_tool({"type": "object", "properties": {"x": {"type": "string"}}}, tool_choice="required"),
    "free tool": of_tool(LENGTHS),
    "none": {},
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Keys]]:
    """A server whose grammar process has started."""
    path = tmp_path_factory.mktemp("guard")
    keys = Keys(path / "keys.json")
    for name in ("alice", "bob"):
        keys.make(name)
    with served(keys, path) as server:
        assert asked(server, keys, GOOD["regex"]).status_code == 200
        yield server, keys


_WAIT_S = 600  # four wait for each other's 30 s of CPU time, at what a busy machine makes of it


def asked(server: Served, keys: Keys, grammar: dict[str, Any], key: str = "alice") -> httpx.Response:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2, **grammar}
    headers = {"content-type": "application/json", **server.headers(keys.texts[key])}
    content = json.dumps(body)  # also what is no JSON, such as NaN
    return httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers, timeout=_WAIT_S)


@pytest.mark.parametrize("case", BAD)
def test_what_no_compiler_may_see_is_refused_with_words_at_once(case: str) -> None:
    fields, words = BAD[case]
    began = time.perf_counter()
    with pytest.raises(Refusal) as caught:
        find_grammars(fields, Grammars())
    assert time.perf_counter() - began < 1
    assert caught.value.status == 400
    assert words in caught.value.message


def test_bad_grammars_are_400_and_good_ones_pass(guarded: tuple[Served, Keys]) -> None:
    for case, (grammar, _) in BAD.items():
        answer = asked(*guarded, grammar)
        assert answer.status_code == 400, case
        assert answer.json()["error"]["message"], case
    for case, good in GOOD.items():
        assert asked(*guarded, good).status_code == 200, case


def test_what_xgrammar_refuses_is_its_clients_error(guarded: tuple[Served, Keys]) -> None:
    for grammar in (of_output(regex="(a"), of_output(grammar="root ::= missing"), of_schema({"type": "nothing"})):
        answer = asked(*guarded, grammar)
        assert answer.status_code == 400
        assert "does not compile" in answer.json()["error"]["message"]
        assert not nasty_grammars.LEAKS.search(answer.text)


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ('root ::= "a" b\nb ::= b b', "b"),
        ('root ::= "a" | b\nb ::= "x" c\nc ::= b', "b"),
        ('root ::= root "a"', "root"),
        ('root ::= "b b ::= |" [|(] root | ""', None),
        ('root ::= x{0,3} "a"\nx ::= x "b"', None),
        ('root ::= "a" d?\nd ::= [a-z\\]]+ | "\\"" d', None),
    ],
)
def test_a_rule_that_never_ends_is_refused(
    guarded: tuple[Served, Keys], grammar: str, rule: str | None
) -> None:  # on vLLM such a request ends with 500 as soon as the answer comes to it
    answer = asked(*guarded, of_output(grammar=grammar))
    assert answer.status_code == (400 if rule else 200), answer.text
    assert rule is None or f"has a rule that no text can fulfil: {rule}" in answer.json()["error"]["message"]


def test_a_grammar_that_takes_too_long_or_ends_the_compiler_costs_its_own_request_alone(keys: Keys, tmp_path: Path) -> None:
    slow = of_schema({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(4000)}})
    deep = BAD["pattern"][0]
    sizes = {"nesting": 100_000, "pattern_chars": 200_000, "total_bytes": 500_000, "properties": 5000}
    lenient = {"grammars": {"compile_cpu_s": 0.3, **sizes}}
    with served(keys, tmp_path, bounds=lenient) as server:
        for grammar, words in ((slow, "takes longer than 0.3 s to compile"), (deep, "makes the compiler crash")):
            answer = asked(server, keys, grammar)
            assert answer.status_code == 400
            assert words in answer.json()["error"]["message"]
            assert asked(server, keys, GOOD["regex"]).status_code == 200


def test_the_process_that_compiles_has_no_secret_and_comes_back(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-of-ray")
    elsewhere = compilers()
    with served(keys, tmp_path) as server:
        assert asked(server, keys, GOOD["regex"]).status_code == 200
        first = compilers() - elsewhere
        (pid,) = first
        assert b"secret-of-ray" not in Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not compilers() & first, 5, "the process to end")
        assert asked(server, keys, GOOD["regex"]).status_code == 200, "found before"
        assert asked(server, keys, GOOD["grammar"]).status_code == 200
    wait_for(lambda: compilers() == elsewhere, 10, "the next one to end with the server")


def compilers() -> set[int]:
    """The processes of this one that compile grammars."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "apps.guard.grammar_worker" in " ".join(child.cmdline())}


def test_grammars_that_were_compiled_once_cost_nothing(guarded: tuple[Served, Keys]) -> None:
    costly = of_schema({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(400)}})
    first, again = (timed(lambda: asked(*guarded, costly)) for _ in range(2))
    assert again < first


def timed(call: Callable[[], httpx.Response]) -> float:
    began = time.perf_counter()
    assert call().status_code == 200
    return time.perf_counter() - began


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long names
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [25, pytest.param(int(os.environ.get("GRAMMARS", 2000)), marks=pytest.mark.full)])
def test_nasty_grammars_hold_up_nobody(guarded: tuple[Served, Keys], count: int) -> None:
    server, keys = guarded
    grammars = drawn(nasty_grammars.requests, count)
    statuses = Counter[int]()
    with ThreadPoolExecutor(4) as threads, others(server, keys) as waits:
        answers = threads.map(lambda grammar: asked(server, keys, grammar), grammars)
        for grammar, answer in zip(grammars, answers, strict=True):
            assert answer.status_code < 500, grammar
            assert answer.status_code < 400 or answer.json()["error"]["message"], grammar
            assert not nasty_grammars.LEAKS.search(answer.text), (grammar, answer.text)
            statuses[answer.status_code] += 1
    different = len({json.dumps(grammar, sort_keys=True) for grammar in grammars})
    summary = f"answers by status: {dict(sorted(statuses.items()))}; others: {len(waits)}, slowest {max(waits):.2f} s"
    print(f"\n{count} grammars, {different} of them different, {summary}")
    assert statuses[200] > count / 50
    assert max(waits) < 2


@contextmanager
def others(server: Served, keys: Keys) -> Iterator[list[float]]:
    """Requests without a grammar, of another key, one after the other meanwhile: seconds that each took."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            waits.append(timed(lambda: asked(server, keys, {}, "bob")))
            over.wait(0.05)

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(ask)
        try:
            yield waits
        finally:
            over.set()
        done.result()
