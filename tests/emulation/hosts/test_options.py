"""Options of the local commands, and what bad ones get: exit 2 and one clear line, quickly."""

import subprocess
import sys
from pathlib import Path

import pytest

from apps.common.errors import UserError
from emulation.hosts import config, options
from tests.timing import processor_s

ROOT = Path(__file__).resolve().parents[3]


def test_defaults() -> None:
    assert options.parse(["up"]) == options.UpOptions(8000, 8265, None, detach=False, classic=False)
    assert options.parse(["down"]) == options.DownOptions(None, all=False)


@pytest.mark.parametrize(
    "arguments", [["--port", "x"], ["--port", "80"], ["--port", "8265"], ["--nonsense"], ["--port", "70000"]]
)
def test_bad_options_exit_2_with_a_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options.parse(["up", *arguments])
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


LEAST = """
applications:
  - import_path: apps.llm:build_app
    args:
      llm_configs:
        - {model_loading_config: {model_id: m, model_source: /models/m}, accelerator_config: {kind: cpu}}
  - {name: hello, import_path: hello:app, route_prefix: /h}
http_options: {request_timeout_s: 60}
"""


@pytest.mark.parametrize("http_options", ["", "http_options: {request_timeout_s: 60}", "http_options: {port: 9000}"])
def test_what_validates_can_be_deployed(http_options: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(LEAST.replace("http_options: {request_timeout_s: 60}", http_options))
    loaded = config.with_dtype(config.with_port(config.load(mine), 8100), "float32")
    model, hello = loaded["applications"]
    assert (loaded["http_options"]["host"], loaded["http_options"]["port"]) == ("127.0.0.1", 8100)
    assert model["args"]["llm_configs"][0]["engine_kwargs"] == {"dtype": "float32"}
    assert hello == {"name": "hello", "import_path": "hello:app", "route_prefix": "/h"}
    assert config.served_model(config.with_guard(loaded, [tmp_path / "keys.json"])) == ("m", "/models/m")
    assert config.served_model(config.with_model(loaded, "n", "/models/n", own_template=True)) == ("n", "/models/n")
    assert config.model_apps(config.with_weights(loaded, "file:///bucket", "/disk")) == {"default"}


def test_what_a_config_says_itself_is_kept(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    own = "accelerator_config: {kind: cpu}, engine_kwargs: {dtype: float16}"
    chat = "  - {name: chat, import_path: apps.chat:build_app, route_prefix: /chat, args: {api_url: 'http://other:9000/v1'}}\n"
    mine.write_text(LEAST.replace("accelerator_config: {kind: cpu}", own).replace("http_options", chat + "http_options"))
    model, _, chat_app = config.with_dtype(config.with_port(config.load(mine), 8100), "float32")["applications"]
    assert model["args"]["llm_configs"][0]["engine_kwargs"] == {"dtype": "float16"}
    assert chat_app["args"]["api_url"] == "http://other:9000/v1"


def test_a_config_of_ones_own_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    for command in ("up", "slice"):
        parsed = options.parse([command, "--config", "mine.yaml"])
        assert isinstance(parsed, options.UpOptions)
        assert parsed.config == "mine.yaml"
    mine = tmp_path / "mine.yaml"
    for content, why in (
        (None, "No such file"),
        ("a: [", "mine.yaml"),
        ("applications: []", "none has a model"),
        ("applications: [{import_path: hello:app}]", "none has a model"),
        (LEAST.replace("route_prefix: /h", "route_prefix: h"), r"applications\[1\].route_prefix: is 'h'.*allowed: /, or one"),
        (LEAST.replace("http_options: {", "http_options: {prt: 1, hst: 2, "), "did you mean .*; 1 more: scripts/validate.py"),
    ):
        if content is not None:
            mine.write_text(content)
        with pytest.raises(UserError, match=why):
            config.load(mine)


def test_defaults_of_an_emulated_slice() -> None:
    up = options.UpOptions(8000, 8265, None, detach=False, classic=False, engine="sim", slices=1)
    assert options.parse(["slice"]) == up
    assert options.parse(["slice", "--kill-host=slice-a/2"]) == options.HostOptions(8000, "slice-a/2", start=False)
    assert options.parse(["slice", "--start-host=slice-a/2"]) == options.HostOptions(8000, "slice-a/2", start=True)
    assert options.parse(["slice", "--kill-host=head"]) == options.HostOptions(8000, "head", start=False)


def test_a_redis_is_given_by_host_and_port() -> None:
    parsed = options.parse(["slice", "--redis=localhost:6379"])
    assert isinstance(parsed, options.UpOptions)
    assert parsed.redis == "localhost:6379"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine=gpu"], "invalid choice"),
        (["--slices=9"], "invalid choice"),
        (["--slices=1", "--absent=slice-b/0"], "slice-b/0 is not one of the 1 slices"),
        (["--kill-host=a/9"], "'a/9' is not a host: give one such as slice-a/2"),
        (["--start-host=slice-a/0", "--kill-host=slice-a/0"], "not allowed with"),
        (["--absent=head"], "'head' is not a host"),
        (["--redis=localhost"], "'localhost' is not HOST:PORT"),
    ],
)
def test_bad_options_of_an_emulated_slice(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options.parse(["slice", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", ["serve_local.sh", "stop_local.sh", "emulated_slice.sh"])
def test_help_is_quick(script: str) -> None:
    def once() -> None:
        done = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True)
        assert "--port" in done.stdout

    assert min(processor_s(once) for _ in range(3)) < 0.5


@pytest.mark.parametrize("command", [["scripts/gke.py"], ["-m", "tests.perf.guard"], ["-m", "tests.perf.overhead"]], ids=str)
def test_help_of_a_program_with_much_behind_it_is_quick(command: list[str]) -> None:
    def once() -> None:
        subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, check=True)

    assert min(processor_s(once) for _ in range(3)) < 0.5


def test_too_old_a_python_is_named(tmp_path: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python"):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
        fake.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "serve_local.sh"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed, and python3 is Python 3.9.2" in done.stderr
