"""A derived config is its base but for the differences in the patch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.checks.variant import main, merged
from apps.common.errors import UserError
from emulation.hosts.config import emulated

BASE = {"host": "a", "apps": [{"name": "one", "args": {"x": 1, "y": [1, 2]}}, {"name": "two"}], "models": [{"id": "m", "n": 1}]}


@pytest.mark.parametrize(
    ("patch", "changed"),
    [
        ({}, {}),
        ({"host": "b", "new": {"a": 1}}, {"host": "b", "new": {"a": 1}}),
        ({"host": None}, {"host": None}),
        ({"new": {"a": None, "b": {"c": None}}}, {"new": {"b": {}}}),
        ({"host": {"a": None, "b": 1}}, {"host": {"b": 1}}),
        ({"apps": [{"name": "two", "args": {"z": 3}}]}, {"apps": [BASE["apps"][0], {"name": "two", "args": {"z": 3}}]}),
        (
            {"apps": [{"name": "one", "args": {"y": [3]}}]},
            {"apps": [{"name": "one", "args": {"x": 1, "y": [3]}}, {"name": "two"}]},
        ),
        ({"models": [{"n": 2}]}, {"models": [{"id": "m", "n": 2}]}),
    ],
)
def test_only_what_the_patch_says_is_changed(patch: dict[str, Any], changed: dict[str, Any]) -> None:
    before = copy.deepcopy(BASE)
    wanted = {key: value for key, value in (BASE | changed).items() if value is not None}
    assert merged(BASE, patch) == wanted
    assert before == BASE


def test_an_item_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"changes 'three', but the base has only \['one', 'two'\]"):
        merged(BASE, {"apps": [{"name": "three"}]})


def test_the_command_prints_what_is_deployed_on_an_emulated_slice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve_configs/gemma.yaml", "emulation/hosts/emulated.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == emulated()


def test_a_patch_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve_configs/gemma.yaml", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
