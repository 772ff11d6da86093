"""Questions, their scoring, and the command against servers that answer right, wrong, or not at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.questions import EvalQuestion, difference, is_right, questions, score
from tests.benchmarks.known import Timing, running
from tests.fake_openai import FakeServer
from tests.fake_openai import running as faking


def test_questions_are_seeded_and_each_has_its_examples() -> None:
    assert questions(50, 1) == questions(50, 1)
    assert questions(50, 1) != questions(50, 2)
    for question in questions(100, 1):
        *shots, asked = question.prompt.split("\n\n")
        assert len(shots) == 4
        assert asked.startswith("Q: ")
        assert asked.endswith("\nA:")
        assert asked.removesuffix("A:") not in "".join(shots)


@pytest.mark.parametrize(
    ("text", "right"),
    [(" 92", True), ("92.\n\nQ: What", True), ("92 apples", False), ("", False), ("\n93", False), ("It is 92", False)],
)
def test_the_first_line_must_be_the_answer(text: str, right: bool) -> None:
    assert is_right(EvalQuestion("addition", "Q", "92"), text) is right


@given(st.integers(1, 5000).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked))))
def test_the_interval_holds_the_share(pair: tuple[int, int]) -> None:
    rate = score(*pair)
    assert 0 <= rate.low <= rate.share + 1e-9
    assert rate.share - 1e-9 <= rate.high <= 1


def test_known_intervals_and_sign_test() -> None:
    assert (score(50, 100).low, score(50, 100).high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson
    assert difference([True] * 10, [True] * 10).p == 1
    assert difference([True] * 6, [False] * 6).p == pytest.approx(2 / 64)


def test_scores_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one.json"
    with running(Timing(ttft=0.001, tpot=0.0001, text="paris\n")) as server:
        ask = ["--url", server.url, "--questions", "100", "--max-tokens", "4"]
        assert main([*ask, "--out", str(out)]) == 0
        assert "all " in capsys.readouterr().out
        assert main([*ask, "--against", str(out)]) == 0
        assert "0 right only now, 0 right only then (p = 1.000: no more than chance explains)" in capsys.readouterr().out
        assert main([*ask, "--seed", "2", "--against", str(out)]) == 2
        assert "seed differ" in capsys.readouterr().err
    result = json.loads(out.read_text())
    asked = questions(100, 1)
    assert result["right"] == [question.answer == "Paris" for question in asked]
    assert 0 < sum(result["right"]) < 20


def test_a_server_that_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with faking(FakeServer(refusal=(429, "come back later"))) as fake:
        assert main(["--url", fake.url, "--questions", "3"]) == 1
    assert "HTTP 429" in capsys.readouterr().err
