"""`rts batch` as people run it, against a server on a real socket."""

import json
import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.files import ROOT, answers, assert_whole, chat, command, completion, many, run, text_of, write
from tests.batch.server import BatchServer, running


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with running() as started:
        yield started


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.01)


def summary_of(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    return dict(json.loads(done.stdout))


def test_answers_in_openai_s_form_failures_beside_and_a_second_run_changes_nothing(server: BatchServer, tmp_path: Path) -> None:
    lines = [chat("a", "Grüße 🙂 "), completion("b", "left"), chat("c", "refused"), chat("half", "\ud83d", logprobs=True)]
    source, target = write(tmp_path / "in.jsonl", lines), tmp_path / "new" / "out.jsonl"
    server.always["refused"] = 400
    done = run(source, "--to", target, "--url", server.url, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = summary_of(done)
    assert {name: summary[name] for name in ("requests", "ok", "failed", "sent", "retries")} == {
        **{"requests": 4, "ok": 3, "failed": 1, "sent": 4, "retries": {}}
    }
    assert (summary["prompt_tokens"], summary["completion_tokens"]) == (9, 6)
    assert summary["output_tok_per_s"] == pytest.approx(6 / summary["duration_s"])
    lines_by_id = answers(target)
    assert list(lines_by_id) == ["a", "b", "half"]
    assert text_of(lines_by_id["a"]) == " 🙂 eßürG"
    assert text_of(lines_by_id["b"]) == "tfel"
    assert lines_by_id["b"]["response"]["request_id"] == "request-left"
    failed = answers(tmp_path / "new" / "out.errors.jsonl")["c"]
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["message"] == "fault 400"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.parent.iterdir()}
    assert len(before) == 2
    asked = server.asked.total()
    again = run(source, "--to", target, "--url", server.url)
    assert again.returncode == 0
    assert "3 of 4 requests answered, 1 failed (1 x HTTP 400); it was finished before, and nothing was sent" in again.stdout
    assert server.asked.total() == asked
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.parent.iterdir()} == before


def test_a_folder_is_one_input_and_a_model_can_be_given(server: BatchServer, tmp_path: Path) -> None:
    first, second = chat("a", "one"), chat("b", "two")
    del second["body"]["model"]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.jsonl").write_text(json.dumps(first) + "\r\n\r\n")
    (folder / "2.jsonl").write_text(json.dumps(second))
    (folder / "notes.txt").write_text("none")
    target = tmp_path / "out.jsonl"
    nameless = run(folder, "--to", target, "--url", server.url)
    assert nameless.returncode == 2
    assert "2.jsonl:1: body.model must be a model's name" in nameless.stderr
    done = run(folder, "--to", f"file://{target}", "--url", server.url, "--model", "other")
    assert done.returncode == 0, done.stderr
    assert [text_of(line) for line in answers(target).values()] == ["eno", "owt"]
    assert [body["model"] for body in sorted(server.bodies, key=lambda body: str(body["messages"]))] == ["reverse", "other"]
    another = run(folder, "--to", target, "--url", server.url, "--model", "third")
    assert another.returncode == 2
    assert "no answer to this input (of another input or --model)" in another.stderr


BAD: list[tuple[bytes, str]] = [
    (b"{", "not JSON: Expecting property name"),
    (b'{"custom_id": "\xff"}', "not UTF-8: byte 16"),
    (b"[1]", "not a JSON object"),
    (b"{}", "custom_id must be a text"),
    (json.dumps({**chat("a", "x"), "custom_id": 7}).encode(), "custom_id must be a text"),
    (json.dumps({**chat("a", "x"), "method": "GET"}).encode(), "method is 'GET', and must be"),
    (json.dumps({**chat("a", "x"), "url": "/v1/embeddings"}).encode(), "url is '/v1/embeddings', and must be /v1/chat"),
    (json.dumps({**chat("a", "x"), "body": "x"}).encode(), "body must be an object"),
    (json.dumps(chat("a", "x", stream=True)).encode(), "body.stream: answers of a batch are whole"),
    (json.dumps(chat("a", "x", model=None)).encode(), "body.model must be a model's name"),
    (json.dumps(chat("a", "x", top_p=float("nan"))).encode(), "not JSON: NaN"),
    (json.dumps(chat("good", "x")).encode(), "custom_id 'good' is also that of "),
    (b'{"custom_id": ' + b"[" * 200_000, "nested too deeply"),
    (b'{"custom_id": ' + b"9" * 5000 + b"}", "limit"),
    (json.dumps(chat("a", "x" * 17 * 1024**2)).encode(), "longer than 16 MiB"),
]


def test_bad_lines_are_named_before_anything_is_sent(server: BatchServer, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join([json.dumps(chat("good", "x")).encode(), *(line for line, _ in BAD)]))
    done = run(source, "--to", tmp_path / "out.jsonl", "--url", server.url)
    assert done.returncode == 2
    first, *named = done.stderr.splitlines()
    assert first == f"error: {len(BAD)} of {len(BAD) + 1} lines are bad; nothing was sent"
    for number, (line, (_, reason)) in enumerate(zip(named, BAD, strict=True), start=2):
        assert line.startswith(f"{source}:{number}: "), line
        assert reason in line
    assert not server.seen_keys
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_what_cannot_be_read_or_written_is_said_before_anything_is_sent(server: BatchServer, tmp_path: Path) -> None:
    source, empty = many(tmp_path / "in.jsonl", 3), tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    other = tmp_path / "other.jsonl"
    other.write_text("mine\n")
    (tmp_path / "half.errors.jsonl").write_text("mine\n")
    (tmp_path / "drafted.jsonl.draft").write_text("mine\n")
    blocked = tmp_path / "file" / "out.jsonl"
    blocked.parent.write_text("no folder")
    for arguments, message in [
        ((tmp_path / "none.jsonl", "--to", tmp_path / "o.jsonl"), "none.jsonl: no such file"),
        ((empty, "--to", tmp_path / "o.jsonl"), "no requests in it"),
        ((source, "--to", other), "other.jsonl: has a line that is no answer to this input (not JSON"),
        ((source, "--to", tmp_path / "half.jsonl"), "half.errors.jsonl: has a line that is no answer to this input"),
        ((source, "--to", tmp_path / "drafted.jsonl"), "drafted.jsonl.draft: has a line that is no answer to this input"),
        ((source, "--to", tmp_path), "a folder; give the name of a file"),
        ((source, "--to", source), "part of the input"),
        ((tmp_path, "--to", tmp_path / "new" / ".." / "o.jsonl"), "part of the input"),
        ((source, "--to", blocked), "give a place that you may write to"),
        ((source, "--to", tmp_path / "o.jsonl", "--url", "http://10.0.0.7:8000"), "give --allow-host 10.0.0.7"),
        ((source, "--to", tmp_path / "o.jsonl", "--concurrency", "0"), "'0' is not a whole number of 1 or more"),
    ]:
        done = run("--url", server.url, *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert message in done.stderr
    assert other.read_text() == (tmp_path / "half.errors.jsonl").read_text() == "mine\n"
    assert not server.seen_keys


def test_a_folder_without_write_permission(server: BatchServer, tmp_path: Path) -> None:
    source, folder = many(tmp_path / "in.jsonl", 3), tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):  # root, who may not write here either
        folder = Path("/sys")
    done = run(source, "--to", folder / "out.jsonl", "--url", server.url)
    assert (done.returncode, server.asked.total()) == (2, 0)
    assert "give a place that you may write to" in done.stderr


def test_a_full_disk_ends_with_words_and_loses_nothing(server: BatchServer, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk's end: the kernel cuts a write there as it does on a full disk."""
    source, target = many(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    limited = [
        "bash",
        "-c",
        'trap "" XFSZ; ulimit -f 4; exec "$@"',
        "bash",
        *command(source, "--to", target, "--url", server.url),
    ]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "make room, and the same command goes on" in done.stderr
    assert not target.exists()
    assert run(source, "--to", target, "--url", server.url).returncode == 0
    assert_whole(target, 60)


def test_a_dry_run_sends_and_writes_nothing(server: BatchServer, tmp_path: Path) -> None:
    source = many(tmp_path / "in.jsonl", 3)
    done = run(source, "--to", tmp_path / "out.jsonl", "--url", server.url, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "3 requests are right, 0 are answered already; nothing was sent\n")
    assert not server.seen_keys
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_key_comes_from_the_environment_and_a_wrong_one_stops_the_run(server: BatchServer, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    server.keys = {"right"}
    for key in ("wrong", ""):
        done = run(source, "--to", target, "--url", server.url, env={**os.environ, "OPENAI_API_KEY": key})
        assert done.returncode == 2
        assert "HTTP 401: OPENAI_API_KEY is not set, or is no key of this server" in done.stderr
    done = run(source, "--to", target, "--url", server.url, env={**os.environ, "OPENAI_API_KEY": "right"})
    assert done.returncode == 0, done.stderr
    assert "right" not in done.stdout + done.stderr
    assert_whole(target, 3)


def test_a_storm_of_429_is_waited_out_and_the_load_adapts(server: BatchServer, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    server.room, server.answer_s = 6, 0.01
    server.faults.extend([(429, {"retry-after": "1"})] * 20 + [(503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})] * 5)
    began = time.monotonic()
    done = run(source, "--to", target, "--url", server.url, "--json")
    assert done.returncode == 0, done.stderr
    assert_whole(target, 400)
    assert time.monotonic() - began > 1  # as Retry-After says
    assert set(server.asked.values()) == {1}
    assert server.max_open <= 32  # far below --concurrency
    retries = summary_of(done)["retries"]
    assert retries["HTTP 503"] == 5
    assert 20 <= retries["HTTP 429"] <= 250


def test_only_failures_that_may_pass_are_tried_again_and_not_for_ever(server: BatchServer, tmp_path: Path) -> None:
    texts = {"bad": 400, "missing": 404, "large": 413, "broken": 500, "crash": "cut", "fine": None}
    source, target = write(tmp_path / "in.jsonl", [chat(text, text) for text in texts]), tmp_path / "out.jsonl"
    server.always.update({text: fault for text, fault in texts.items() if fault})
    done = run(source, "--to", target, "--url", server.url, "--json")
    assert done.returncode == 0
    assert summary_of(done)["retries"] == {"HTTP 500": 4, "connection_lost": 4}
    assert summary_of(done)["failures"] == {f"HTTP {status}": 1 for status in (400, 404, 413, 500)} | {"connection_lost": 1}
    assert list(answers(target)) == ["fine"]
    failed = answers(tmp_path / "out.errors.jsonl")
    assert {id: line["response"]["status_code"] for id, line in failed.items() if line["response"]} == {
        **{"bad": 400, "missing": 404, "large": 413, "broken": 500}
    }
    assert failed["crash"]["error"]["code"] == "connection_lost"
    assert "disconnected without sending a response.; tried 5 times" in failed["crash"]["error"]["message"]


def test_a_server_that_goes_away_and_returns_costs_no_request(tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    with running() as server:
        server.answer_s = 0.02
        process = subprocess.Popen(
            command(source, "--to", target, "--url", server.url), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: server.asked.total() > 50, "50 requests")
    draft = tmp_path / "out.jsonl.draft"
    wait_for(lambda: time.time() - draft.stat().st_mtime > 1.5, "a second without an answer")
    assert process.poll() is None
    kept = draft.read_bytes().count(b"\n")
    with running(server.port) as back:
        assert process.wait(60) == 0, process.communicate()
        assert back.asked.total() == 300 - kept
    assert_whole(target, 300)


def test_a_server_that_is_away_for_too_long_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 200), tmp_path / "out.jsonl"
    with running() as server:
        server.answer_s = 0.02
        options = ("--to", target, "--url", server.url, "--patience", 2)
        process = subprocess.Popen(command(source, *options), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: server.asked.total() > 50, "50 requests")
    _, error = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in error) == (1, False), error
    assert f"{server.url}: no answer for " in error
    assert "no_connection" in error
    off = run(source, *options)
    assert off.returncode == 1
    assert "is the server up?" in off.stderr
    assert not target.exists()
    kept = (tmp_path / "out.jsonl.draft").read_bytes().count(b"\n")
    assert kept > 10
    with running(server.port) as back:
        assert run(source, *options).returncode == 0
        assert back.asked.total() == 200 - kept
    assert_whole(target, 200)


def test_a_wait_beyond_the_patience_ends_the_run(server: BatchServer, tmp_path: Path) -> None:
    source = many(tmp_path / "in.jsonl", 3)
    server.faults.extend([(429, {"retry-after": "3600"})] * 3)
    done = run(source, "--to", tmp_path / "out.jsonl", "--url", server.url)
    assert done.returncode == 1
    assert "asks to wait for 3600 s (HTTP 429" in done.stderr


@pytest.mark.full
def test_a_request_that_is_always_refused_fails_alone(server: BatchServer, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    server.always["text 5"], server.answer_s = (429, {"retry-after": "0"}), 0.1
    done = run(source, "--to", target, "--url", server.url, "--patience", 1, "--concurrency", 4, "--json")
    assert (done.returncode, summary_of(done)["failed"]) == (0, 1), done.stderr
    assert len(answers(target)) == 299
    assert answers(tmp_path / "out.errors.jsonl")["id-5"]["response"]["status_code"] == 429
    assert summary_of(done)["retries"]["HTTP 429"] >= 4


def test_a_half_written_line_is_dropped_and_another_input_refused(server: BatchServer, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 50), tmp_path / "out.jsonl"
    server.always["text 49"] = (429, {"retry-after": "0"})
    process = subprocess.Popen(command(source, "--to", target, "--url", server.url), cwd=ROOT)
    draft = tmp_path / "out.jsonl.draft"
    wait_for(lambda: draft.exists() and draft.read_bytes().count(b"\n") == 49, "49 answers")
    second = run(source, "--to", target, "--url", server.url)
    assert second.returncode == 2
    assert "another run is writing it" in second.stderr
    process.kill()
    process.wait()
    half = b"\n".join(draft.read_bytes().splitlines()[:30])[:-5]
    draft.write_bytes(half)
    changed = write(tmp_path / "changed.jsonl", [chat("a", "x")])
    refused = run(changed, "--to", target, "--url", server.url)
    assert refused.returncode == 2
    assert "out.jsonl.draft: has a line that is no answer to this input (of another input or --model)" in refused.stderr
    assert draft.read_bytes() == half
    server.always.clear()
    server.asked.clear()
    done = run(source, "--to", target, "--url", server.url, "--json")
    assert done.returncode == 0, done.stderr
    assert summary_of(done)["sent"] == server.asked.total() == 21
    assert_whole(target, 50)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(server: BatchServer, tmp_path: Path, stop: signal.Signals) -> None:
    source, target = many(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    server.answer_s = 0.05
    process = subprocess.Popen(
        command(source, "--to", target, "--url", server.url), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: server.asked.total() > 100, "100 requests")
    process.send_signal(stop)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130
    assert error == "\nstopped; what was answered is kept, and the same command goes on with the rest\n"
    server.answer_s = 0
    assert run(source, "--to", target, "--url", server.url).returncode == 0
    assert max(server.asked.values()) <= 2
    assert_whole(target, 300)


def _killed_again_and_again(source: Path, target: Path, server: BatchServer, seed: int, kills: int) -> int:
    draw, killed = random.Random(seed), 0
    while True:
        process = subprocess.Popen(command(source, "--to", target, "--url", server.url), cwd=ROOT, stdout=subprocess.DEVNULL)
        if killed == kills:
            assert process.wait(120) == 0
            return killed
        goal = server.asked.total() + draw.randrange(1, 120)
        while server.asked.total() < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        if process.wait() != -signal.SIGKILL:
            return killed
        assert not target.exists() or target.read_bytes().count(b"\n")
        killed += 1


def test_kill_9_loses_and_repeats_no_line(server: BatchServer, tmp_path: Path) -> None:
    source, target = many(tmp_path / "in.jsonl", 600), tmp_path / "out.jsonl"
    server.answer_s = 0.005
    killed = _killed_again_and_again(source, target, server, seed=1, kills=6)
    assert killed >= 4
    assert_whole(target, 600)
    assert server.asked.total() <= 600 + killed * 64  # what was open at a kill is asked again, and no more


@pytest.mark.full
def test_kill_9_while_the_files_are_made(server: BatchServer, tmp_path: Path) -> None:
    """The end is short, so a kill is aimed at it: as soon as the first of the finished files appears."""
    source, target = many(tmp_path / "in.jsonl", 500), tmp_path / "out.jsonl"
    server.always["text 499"] = 400
    beside = [tmp_path / name for name in ("out.errors.jsonl.new", "out.jsonl.new", "out.errors.jsonl", "out.jsonl")]
    for place in beside:
        process = subprocess.Popen(command(source, "--to", target, "--url", server.url), cwd=ROOT, stdout=subprocess.DEVNULL)
        while not place.exists() and process.poll() is None:
            pass
        process.kill()
        process.wait()
        if target.exists():
            assert target.read_bytes().count(b"\n") == 499
    assert run(source, "--to", target, "--url", server.url).returncode == 0
    assert len(answers(target)) == 499
    assert list(answers(tmp_path / "out.errors.jsonl")) == ["id-499"]
    assert max(server.asked.values()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "out.errors.jsonl"}


def _peak_bytes(*arguments: object) -> int:
    """Peak resident memory of a run that must succeed; `ru_maxrss` would be this process's own, from before the exec."""
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(int(each) * 1024 for each in peaks)])
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


def test_a_long_input_is_checked_in_little_memory(server: BatchServer, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    small, large = many(tmp_path / "small.jsonl", 10), tmp_path / "large.jsonl"
    padding = "x" * 1000
    write(large, (chat(f"id-{number}", f"{number} {padding}") for number in range(100_000)))
    least = _peak_bytes(small, "--to", target, "--url", server.url, "--dry-run")
    assert _peak_bytes(large, "--to", target, "--url", server.url, "--dry-run") - least < 60 * 1024**2
    assert large.stat().st_size > 100 * 1024**2


@pytest.mark.full
def test_a_hundred_thousand_requests_are_answered_in_little_memory(server: BatchServer, tmp_path: Path) -> None:
    small, large = many(tmp_path / "small.jsonl", 100), many(tmp_path / "large.jsonl", 100_000)
    least = _peak_bytes(small, "--to", tmp_path / "few.jsonl", "--url", server.url)
    peak = _peak_bytes(large, "--to", tmp_path / "answers.jsonl", "--url", server.url)
    assert peak - least < 80 * 1024**2
    assert_whole(tmp_path / "answers.jsonl", 100_000)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_at_many_points(server: BatchServer, tmp_path: Path, seed: int) -> None:
    source, target = many(tmp_path / "in.jsonl", 1500), tmp_path / "out.jsonl"
    server.answer_s, server.room = 0.002, 20
    killed = _killed_again_and_again(source, target, server, seed, kills=20)
    assert killed >= 10
    assert_whole(target, 1500)
