"""scripts/validate.py as a person or a pipeline runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "serve_configs").glob("*.yaml"))


def validate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "validate.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_shipped_configs_are_clean_and_quickly_checked() -> None:
    start = time.monotonic()
    done = validate(*CONFIGS)
    print(f"\nvalidate: {len(CONFIGS)} files in {time.monotonic() - start:.2f} s")
    assert done.returncode == 0, done.stdout
    assert f"{len(CONFIGS)} files: 0 errors" in done.stdout
    assert time.monotonic() - start < 10  # 1 s on an idle machine; this bound only notices an import of Ray or vLLM


def test_a_finding_has_its_line_and_all_that_a_machine_needs(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text((ROOT / "serve_configs" / "gemma.yaml").read_text().replace("topology: 4x4", "topology: 5x5"))
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "5x5" in text)
    done = validate("--json", str(file))
    assert done.returncode == 2
    (finding,) = json.loads(done.stdout)
    assert finding["path"].endswith("accelerator_config.topology")
    assert (finding["line"], finding["severity"], finding["value"]) == (line, "error", "5x5")
    assert f"serve.yaml:{line}: error: " in validate(str(file)).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "must be a mapping"),
        ("applications: []\napplications: []\n", "is there twice"),
        ("applications: 1\n", "must be a list"),
        ("", "must be a mapping"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_no_config_is_said_without_a_traceback(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = validate(str(file))
    assert done.returncode == 2
    assert words in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_file_does_not_hide_the_others(tmp_path: Path) -> None:
    done = validate(str(tmp_path / "none.yaml"), CONFIGS[0])
    assert done.returncode == 2
    assert "none.yaml: cannot be read" in done.stdout
    assert "2 files: 1 error" in done.stdout
