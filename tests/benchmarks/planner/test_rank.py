"""The order of candidates: by the objective, near ties by upstream's status, and what changes answers apart."""

from dataclasses import replace

import pytest

from apps.slice.efficiency import ERROR
from benchmarks.planner.candidates import Status
from benchmarks.planner.plan import Slo, plan
from benchmarks.planner.rank import OBJECTIVES, rank, score
from tests.benchmarks.planner.questions import question

ASKED = question()
ROWS = plan(ASKED)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_the_first_is_the_best_or_a_near_tie_that_upstream_tests_better(objective: str) -> None:
    asked = replace(ASKED, objective=objective)
    ranking = rank(ROWS, asked)
    scores = [score(row, objective, asked.work.output) for row in ranking.exact]
    assert scores[0] <= min(scores) * (1 + ERROR)
    assert all(value > min(scores) * (1 + ERROR) for value in scores[ranking.ties :])
    assert scores[ranking.ties :] == sorted(scores[ranking.ties :])
    statuses = [list(Status).index(row.candidate.status) for row in ranking.exact[: ranking.ties]]
    assert statuses == sorted(statuses)
    assert ("A near tie" in ranking.why) == (ranking.ties > 1)


def test_what_changes_answers_is_never_recommended_and_ranked_apart() -> None:
    ranking = rank(ROWS, ASKED)
    assert all(row.candidate.is_exact for row in ranking.exact)
    assert not any(row.candidate.is_exact for row in ranking.changed)
    assert {row.candidate.status for row in (*ranking.exact, *ranking.changed)} <= {Status.PASSING, Status.UNTESTED}


def test_long_requests_leave_only_what_holds_them() -> None:
    asked = question(max_context=262_144)
    ranking = rank(plan(asked), asked)
    assert ranking.choice
    assert ranking.choice.name == "1 x 4x4 TP16/bf16/bf16"
    assert all(row.longest_request_tokens == 262_144 for row in ranking.exact)


def test_nothing_is_ranked_that_misses_the_slo() -> None:
    asked = question(slo=Slo(1, 0.001))
    ranking = rank(plan(asked), asked)
    assert ranking.choice is None
    assert "No layout meets the SLO" in ranking.why
