"""Any small mistake in gemma.yaml leaves a config that Ray takes, or is refused with the key named; never a traceback."""

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.checks.findings import Finding, Path
from tests.checks.test_rules import GEMMA, errors

OTHER_TYPES: list[Any] = [None, True, 7, 2.5, "text", [], {}, ["a"], {"a": 1}]
# Places whose keys are the user's own: any name is right there.
FREE = ("env_vars", "limit_mm_per_prompt")


def paths(node: Any, path: Path = ()) -> list[Path]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [inner for key, value in items for inner in ((*path, key), *paths(value, (*path, key)))]


PATHS = paths(GEMMA)
KEYS = [path for path in PATHS if isinstance(path[-1], str)]
KNOWN_KEYS = [path for path in KEYS if path[-2:-1] not in {(key,) for key in FREE}]


def parent_of(config: Any, path: Path) -> Any:
    for part in path[:-1]:
        config = config[part]
    return config


def is_number(path: Path) -> bool:
    value = parent_of(GEMMA, path)[path[-1]]
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBERS = [path for path in PATHS if is_number(path)]


def named(findings: list[Finding], path: Path) -> bool:
    """A finding is at the mutated key, above or below it, or speaks of it (of two that contradict, it blames one)."""
    for finding in findings:
        shorter = min(len(finding.path), len(path))
        if finding.path[:shorter] == path[:shorter] or str(path[-1]) in finding.message or finding.path[:-1] == path[:-1]:
            return True
    return False


def assert_taken_or_named(config: dict[str, Any], path: Path) -> None:
    if findings := errors(config, slices=1):
        assert named(findings, path), findings
    else:
        ray_takes(config)


def ray_takes(config: dict[str, Any]) -> None:
    from ray.serve.llm import LLMConfig
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    for application in config["applications"]:
        for llm_config in (application.get("args") or {}).get("llm_configs", []):
            if application["import_path"] == "apps.llm:build_app":
                LLMConfig(**copy.deepcopy(llm_config))


BOUNDED = settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@BOUNDED
@given(path=st.sampled_from(KNOWN_KEYS), position=st.integers(0, 30), letter=st.sampled_from("aexz_"))
def test_a_renamed_key_is_reported(path: Path, position: int, letter: str) -> None:
    config = copy.deepcopy(GEMMA)
    parent, key = parent_of(config, path), str(path[-1])
    at = position % (len(key) + 1)
    new = key[:at] + letter + key[at:]
    parent[new] = parent.pop(key)
    findings = errors(config, slices=1)
    assert any(finding.path == (*path[:-1], new) for finding in findings), findings


@BOUNDED
@given(path=st.sampled_from(PATHS), value=st.sampled_from(OTHER_TYPES))
def test_a_retyped_value_is_taken_by_ray_or_refused_by_name(path: Path, value: Any) -> None:
    config = copy.deepcopy(GEMMA)
    parent_of(config, path)[path[-1]] = copy.deepcopy(value)
    assert_taken_or_named(config, path)


@BOUNDED
@given(path=st.sampled_from(KEYS))
def test_a_dropped_key_is_optional_or_named(path: Path) -> None:
    config = copy.deepcopy(GEMMA)
    del parent_of(config, path)[path[-1]]
    assert_taken_or_named(config, path)


@BOUNDED
@given(path=st.sampled_from(NUMBERS), factor=st.sampled_from([-1, 0, 0.5, 2, 1000]))
def test_a_perturbed_number_is_possible_or_refused_by_name(path: Path, factor: float) -> None:
    config = copy.deepcopy(GEMMA)
    parent, key = parent_of(config, path), path[-1]
    parent[key] = type(parent[key])(parent[key] * factor)
    assert_taken_or_named(config, path)
