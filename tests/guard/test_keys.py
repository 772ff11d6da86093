"""Keys: the file, the command that changes it, and what a server makes of it."""

import io
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apps.common.errors import UserError
from apps.guard import command
from apps.guard.keyfile import WatchedKeys, change_keys, make_key, read_keys, utc_now
from apps.guard.keys import Entry, Keys, next_to_expire, split_key

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def run(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> tuple[int, str, str]:
    try:
        code = command.main(["--file", str(file), *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def entry_of(file: Path, text: str) -> Entry | None:
    parts = split_key(text.encode())
    assert parts
    entry = read_keys(file).get(parts[0])
    return entry if entry and entry.matches(parts[1]) else None


def test_a_key_is_printed_once_alone_and_kept_nowhere(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, err = run(
        capsys, file, "create", "alice", "--expires=30d", "--models", "a", "b", "--weight=2", "--max-tokens=100"
    )
    text = out.strip()
    assert (code, err, out) == (0, "", f"{text}\n")
    assert text.split("_")[2] not in file.read_text()
    entry = entry_of(file, text)
    assert entry
    assert (entry.name, entry.models, entry.weight, entry.limits.max_tokens) == ("alice", ["a", "b"], 2, 100)
    assert entry.expires
    assert timedelta(days=29) < entry.expires - utc_now() <= timedelta(days=30)
    assert file.stat().st_mode & 0o777 == 0o600
    listed = run(capsys, file, "list")[1] + run(capsys, file, "list", "--json")[1]
    assert "alice" in listed
    assert text not in listed
    assert entry.hash not in listed


@pytest.mark.parametrize("arguments", [["create", "bob"], ["rotate", "alice", "--grace=1h"]])
def test_a_key_goes_into_a_file_of_its_owner_alone(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, arguments: list[str]
) -> None:
    run(capsys, file, "create", "alice")
    before, out = file.read_text(), tmp_path / "the.key"
    out.write_text("of somebody")
    code, printed, problem = run(capsys, file, *arguments, f"--out={out}")
    assert (code, printed, out.read_text()) == (2, "", "of somebody")
    assert "already exists" in problem
    assert run(capsys, file, *arguments, f"--out={tmp_path / 'none' / 'the.key'}")[0] == 1
    assert file.read_text() == before  # a key that nobody got is none
    out.unlink()
    code, printed, _ = run(capsys, file, *arguments, f"--out={out}")
    assert (code, printed, out.stat().st_mode & 0o777) == (0, "", 0o600)
    entry = entry_of(file, out.read_text().strip())
    assert entry
    assert entry.name == arguments[1]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_rotated_key_and_its_successor_both_work_for_a_while(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    old = run(capsys, file, "create", "alice", "--weight=3")[1].strip()
    new = run(capsys, file, "rotate", "alice", "--grace=1h")[1].strip()
    was, now = entry_of(file, old), entry_of(file, new)
    assert was
    assert now
    assert now.weight == 3
    assert was.usable(datetime.now(UTC))
    assert not was.usable(datetime.now(UTC) + timedelta(hours=1, seconds=1))
    newest = run(capsys, file, "rotate", "alice")[1].strip()
    assert entry_of(file, old) is entry_of(file, new) is None
    assert entry_of(file, newest)


def test_an_expired_key_that_is_rotated_lives_as_long_again(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    born = utc_now() - timedelta(days=40)
    _, id, entry = make_key({"name": "alice", "expires": born + timedelta(days=30)}, born)
    with change_keys(file) as keys:
        keys[id] = entry
    new = entry_of(file, run(capsys, file, "rotate", "alice", "--grace=1h")[1].strip())
    assert new
    assert new.expires
    assert new.expires - new.created == timedelta(days=30)


def test_a_revoked_name_is_gone(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    text = run(capsys, file, "create", "alice")[1].strip()
    assert run(capsys, file, "revoke", "alice")[0] == 0
    assert entry_of(file, text) is None
    code, out, err = run(capsys, file, "revoke", "alice")
    assert (code, out) == (2, "")
    assert "no key 'alice'" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "Not A Name"], "is not a valid name"),
        (["create", "a", "--expires=soon"], "neither a duration such as 30d nor a date"),
        (["create", "a", "--expires=2001-01-01"], "is in the past"),
        (["create", "a", "--weight=0"], "is not a weight"),
        (["create", "a", "--max-tokens=-1"], "is not a whole number"),
        (["rotate", "nobody"], "no key 'nobody'"),
        (["list"], "cannot be read"),
        ([], "required"),
    ],
)
def test_bad_input_exits_2_with_a_message(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: list[str], words: str
) -> None:
    code, out, err = run(capsys, file, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_name_is_not_given_twice_and_a_directory_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    run(capsys, file, "create", "alice")
    assert run(capsys, file, "create", "alice")[0] == 2
    code, _, err = run(capsys, file.parent / "none" / "keys.json", "create", "alice")
    assert code == 1
    assert "cannot be changed" in err


def test_the_script_is_quick_to_help() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "keys.py", "--help"], capture_output=True, text=True, check=True)
    assert "revoke" in done.stdout


def test_many_writers_at_once_lose_nothing(file: Path) -> None:
    def add(number: int) -> None:
        _, id, entry = make_key({"name": f"key-{number}"}, utc_now())
        with change_keys(file) as keys:
            keys[id] = entry

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in read_keys(file).values()} == {f"key-{number}" for number in range(12)}


GARBAGE = ["", "{", "[]", "null", '{"keys": 1}', '{"keys": {"x": {}}}', '{"keys": {}, "more": 1}', '{"version": 2, "keys": {}}']


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_refused_without_repeating_it(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_keys(file)
    assert str(file) in str(caught.value)


def test_a_hash_that_is_none_is_not_repeated(file: Path) -> None:
    make_one(file)
    content = json.loads(file.read_text())
    next(iter(content["keys"].values()))["hash"] = "my-secret-in-the-wrong-place"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_keys(file)
    assert "my-secret" not in str(caught.value)


def make_one(file: Path, name: str = "alice") -> str:
    text, id, entry = make_key({"name": name}, utc_now())
    with change_keys(file) as keys:
        keys[id] = entry
    return text


def test_a_watched_file_is_read_again_when_it_changes_and_kept_when_it_breaks(file: Path, log: io.StringIO) -> None:
    make_one(file)
    watched = WatchedKeys([file])
    assert not watched.refresh()
    make_one(file, "bob")
    assert watched.refresh()
    assert len(watched.entries) == 2
    file.write_text("garbage")
    assert not watched.refresh()
    file.unlink()
    assert not watched.refresh()
    assert len(watched.entries) == 2
    assert "stay valid" in log.getvalue()


def test_a_kubernetes_secret_is_a_link_that_turns(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        make_one(tmp_path / version / "keys.json", version)
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "keys.json").symlink_to("data/keys.json")
    watched = WatchedKeys([tmp_path / "keys.json"])
    (tmp_path / "turn").symlink_to("v2")
    (tmp_path / "turn").replace(tmp_path / "data")
    assert watched.refresh()
    assert [entry.name for entry in watched.entries.values()] == ["v2"]


def test_several_files_are_one_table_and_a_broken_one_stops_only_itself(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    make_one(first, "a")
    make_one(second, "b")
    watched = WatchedKeys([first, second])
    second.write_text("garbage")
    assert not watched.refresh()
    make_one(first, "c")
    assert watched.refresh()
    assert sorted(entry.name for entry in watched.entries.values()) == ["a", "b", "c"]
    second.write_text(first.read_text())
    assert not watched.refresh()
    with pytest.raises(UserError, match="in two of them"):
        WatchedKeys([first, second])


def test_a_broken_file_keeps_no_change_of_another_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    make_one(first, "a")
    make_one(second, "b")
    watched = WatchedKeys([first, second])
    run(capsys, first, "revoke", "a")
    second.write_text("{")
    assert watched.refresh()
    assert [entry.name for entry in watched.entries.values()] == ["b"]


def test_the_next_key_to_expire_is_one_without_a_successor() -> None:
    now = utc_now()

    def table(*lives: tuple[str, int | None]) -> Keys:
        made = [make_key({"name": name, "expires": now + timedelta(days=days) if days else None}, now) for name, days in lives]
        return {id: entry for _, id, entry in made}

    assert next_to_expire(table(("forever", None)), now) is None
    assert next_to_expire(table(("forever", None), ("soon", 2), ("later", 9)), now) == now + timedelta(days=2)
    assert next_to_expire(table(("soon", 2), ("soon", 20), ("later", 9)), now) == now + timedelta(days=9)
    assert next_to_expire(table(("soon", 2), ("soon", None)), now) is None
    assert next_to_expire(table(("gone", -1)), now) is None
