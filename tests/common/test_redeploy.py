"""A new head gets the apps of the one before it, once; on a real cluster of pods: tests/kuberay/test_flow.py."""

import contextlib
from pathlib import Path

import pytest
import yaml

from apps.common.redeploy import redeploy
from tests.kuberay.fake_ray import running_fake_ray

CONFIG = {"applications": [{"name": "llm", "import_path": "apps.llm:build_app"}]}


def test_a_head_without_serve_gets_what_was_deployed_last_and_is_then_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    with running_fake_ray() as (head, port):
        url = f"http://127.0.0.1:{port}/api/serve/applications/"
        assert not redeploy(file, url)  # nothing was ever deployed
        file.write_text(yaml.safe_dump(CONFIG))
        assert redeploy(file, url)
        assert head.names() == {"llm"}
        head.deployed = {"applications": []}  # somebody has removed the app
        assert not redeploy(file, url)
        assert head.names() == set()
        head.started = False  # another head
        assert redeploy(file, url)
        assert head.names() == {"llm"}


@pytest.mark.parametrize(
    "text", ["", "- name: llm\n", "llm", "applications:\n- name: [", "applications:\n", "http_options: {}\n", "\0"]
)
def test_a_file_that_holds_no_config_is_waited_with(text: str, tmp_path: Path) -> None:
    """It is read as nothing, or is an error of the kind that `main` goes on after."""
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with running_fake_ray() as (head, port):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            assert not redeploy(file, f"http://127.0.0.1:{port}/api/serve/applications/")
        assert head.names() == set()
