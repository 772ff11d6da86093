"""What was deployed, in the cluster and in a file: recorded to the letter, and read whatever somebody has made of it."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberay.dashboard import Dashboard
from kuberay.rollout import apply
from kuberay.rollout.deploy import ClusterStore, deploy, last_deployed
from kuberay.rollout.history import FileStore, History
from tests.kuberay.fake_ray import running_fake_ray
from tests.kuberay.rollout.config_maps import ConfigMaps
from tests.kuberay.specs import ROOT, spec, write_spec

NAME = "gemma-serve-config"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())
BAD = ["", "{", "[", "5", "null", '"text"', "{}", "[1]", '[{"config": {}}]', '[{"when": "", "config": [], "kind": "found"}]']


def maps_with(**data: str) -> ConfigMaps:
    maps = ConfigMaps()
    maps.create({"metadata": {"name": NAME}, "data": {key.replace("_", "."): text for key, text in data.items()}})
    return maps


@pytest.mark.parametrize("bad", BAD)
def test_a_history_that_is_not_ours_is_empty(bad: str, tmp_path: Path) -> None:
    assert last_deployed(maps_with(changes_json=bad).api, spec(tmp_path)) is None
    store = FileStore(tmp_path, "http://127.0.0.1:8265")
    store.path.parent.mkdir()
    store.path.write_text(bad)
    assert History(store).changes == []


@pytest.mark.parametrize("history", [{}, {"changes_json": "{"}])
def test_a_config_without_a_history_is_known(history: dict[str, str], tmp_path: Path) -> None:
    """A ConfigMap of an earlier version."""
    maps = maps_with(serve_yaml=yaml.safe_dump(CONFIG), **history)
    assert last_deployed(maps.api, spec(tmp_path)) == CONFIG
    (change,) = ClusterStore(maps.api, spec(tmp_path)).read()
    assert (change.kind, change.away_s) == ("found", None)


@pytest.mark.parametrize("bad", ["[", "- 1", "text", "applications: {}", "applications:"])
def test_a_config_that_is_none_is_not(bad: str, tmp_path: Path) -> None:
    assert last_deployed(maps_with(serve_yaml=bad).api, spec(tmp_path)) is None


def test_what_a_new_head_gets_is_the_last_config_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the change restarts nothing, and `effects` has no word for it."""
    monkeypatch.setattr(Dashboard, "serve_deploy", lambda *_: None)
    maps, wanted = ConfigMaps(), spec(tmp_path)
    changed = {**CONFIG, "logging_config": {"log_level": "DEBUG"}}
    with running_fake_ray() as (_, port):
        dashboard = Dashboard(f"http://127.0.0.1:{port}", None)
        for config in (CONFIG, changed, changed):
            deploy(maps.api, wanted, dashboard, config)
            assert yaml.safe_load(maps.objects[NAME]["data"]["serve.yaml"]) == config
    assert len(json.loads(maps.objects[NAME]["data"]["changes.json"])) == 2


def test_a_plan_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    maps = ConfigMaps()
    options = argparse.Namespace(command="plan", cluster=write_spec(tmp_path), kubeconfig=None, context=None, alone=False)
    options.config, options.slices, options.json = ROOT / "serve_configs" / "gemma.yaml", 1, False
    with running_fake_ray() as (_, port):

        @contextmanager
        def forwarded(*_: object) -> Iterator[Dashboard]:
            yield Dashboard(f"http://127.0.0.1:{port}", None)

        for name, value in {
            "connect": lambda *_: maps.api,
            "read_state": lambda *_: None,
            "forwarded_dashboard": forwarded,
        }.items():
            monkeypatch.setattr(apply, name, value)
        apply.run(options)
    assert "start" in capsys.readouterr().out
    assert maps.writes == 0
