"""examples/ as people run them: each a program of its own, told by the environment where the server is.

All but batch, images and LangChain's run against the real stack. Its model is small: what they print is well formed, not wise.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Stack
from tests.guard.served import served

PICTURE = "docs/dashboard.png"


def run(url: str, example: str, *arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", **variables}
    command = [sys.executable] if example.endswith(".py") else []
    return subprocess.run(
        [*command, f"examples/{example}", *arguments],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
    )


def output(url: str, example: str, *arguments: str, **variables: str) -> str:
    done = run(url, example, *arguments, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_chat_streams_answers_that_end_with_their_tokens(stack: Stack) -> None:
    done = run(stack.url, "chat.py", stdin="What is the capital of France?\nAt what temperature does water boil?\n\n")
    assert done.returncode == 0, done.stderr
    counts = [line for line in done.stdout.splitlines() if re.fullmatch(r"\(\d+ tokens in, \d+ out\)", line)]
    assert len(counts) == 2
    tokens_in = [int(line[1:].split()[0]) for line in counts]
    assert tokens_in[1] > tokens_in[0] + 10  # the first question and its answer go with the second
    assert output(stack.url, "chat.py", "What is the capital of Spain?").rstrip().endswith("out)")


def test_curl_alone_is_enough(stack: Stack) -> None:
    models, completion, *events = [line for line in output(stack.url, "curl.sh").splitlines() if line]
    assert json.loads(models)["data"][0]["id"] == "gemma-3-270m"
    assert "100 degrees" in json.loads(completion)["choices"][0]["text"]
    assert events[-1] == "data: [DONE]"


def test_an_answer_is_json_of_the_schema(stack: Stack) -> None:
    answer = json.loads(output(stack.url, "json_schema.py"))
    assert list(answer) == ["capital", "continent", "in_the_eu"]
    assert isinstance(answer["in_the_eu"], bool)


def test_a_tool_is_called_with_arguments_of_its_schema(stack: Stack) -> None:
    """The result cannot go back to this model: its chat template knows no tools, which the server says."""
    done = run(stack.url, "tools.py", TOOL_CHOICE="required")
    calls = done.stdout.splitlines()
    assert calls, done.stderr
    assert all(re.fullmatch(r"count_chips\(\{'slice': 'v[56]e-\d+'\}\) = \d+", call) for call in calls)
    assert done.stderr.startswith("the server refused it: Error code: 400 - ")
    assert "role tool is not supported" in done.stderr


def test_a_batch_of_prompts_is_answered_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    """The simulated engine answers here; tests/e2e/test_batch.py sends a batch to the real stack."""
    source, target = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    source.write_text("What is the capital of France?\nAt what temperature does water boil?\n")
    with served(None, tmp_path) as server:
        first = output(server.url, "batch.py", str(source), str(target))
        assert "2 of 2 requests answered, 0 failed" in first
        again = output(server.url, "batch.py", str(source), str(target))
    assert "it was finished before, and nothing was sent" in again
    lines = [line for line in again.splitlines() if " -> " in line]
    assert [line.partition(" -> ")[0] for line in lines] == source.read_text().splitlines()
    assert all(line in first.splitlines() for line in lines)


def test_an_image_is_refused_in_plain_words_by_a_model_that_cannot_see(stack: Stack) -> None:
    done = run(stack.url, "images.py", PICTURE)
    assert done.returncode == 1
    assert done.stderr.startswith("the server refused it: Error code: 400 - ")
    assert "Traceback" not in done.stderr


def test_an_image_goes_to_a_model_that_sees(tmp_path: Path) -> None:
    """The simulated engine takes images as Gemma 4 does; what it says of them means nothing."""
    with served(None, tmp_path) as server:
        assert output(server.url, "images.py", PICTURE, "What is it?").strip()


@pytest.mark.skipif(find_spec("langchain_openai") is None, reason="langchain-openai is not among this project's requirements")
def test_langchain(stack: Stack) -> None:
    assert output(stack.url, "langchain_chat.py").strip()
