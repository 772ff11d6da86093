"""Single values of a YAML text change, and nothing else does."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import UserError
from benchmarks.planner.write import set_value

TEXT = """\
# A config.
engine: # what the engine takes
  size: 16 # chips
  share: 0.9
  name: ray
  nested: {a: 1}
list:
  - size: 3
    other: yes # kept
"""


def test_a_changed_value_has_the_new_comment_and_every_other_line_stays() -> None:
    changed = set_value(TEXT, ("engine", "size"), 8, "why")
    assert changed == TEXT.replace("  size: 16 # chips", "  size: 8 # why")


def test_a_value_that_is_right_keeps_its_comment() -> None:
    assert set_value(TEXT, ("engine", "size"), 16, "why") == TEXT


def test_a_new_key_comes_beside_the_others_and_none_takes_a_line_away() -> None:
    more = set_value(TEXT, ("list", 0, "new"), "fp8", "why")
    assert yaml.safe_load(more)["list"] == [{"size": 3, "new": "fp8", "other": True}]
    assert set_value(TEXT, ("engine", "share"), None, "why") == TEXT.replace("  share: 0.9\n", "")
    assert set_value(TEXT, ("engine", "absent"), None, "why") == TEXT


def test_a_mapping_of_one_key_gets_a_second_one() -> None:
    assert set_value("a:\n  - b: 1\n  - c\n", ("a", 0, "new"), 2, "why") == "a:\n  - b: 1\n    new: 2 # why\n  - c\n"


@pytest.mark.parametrize("path", [("engine", "nested"), ("engine", "nested", "a"), ("engine", "nowhere", "a")])
def test_what_is_not_on_a_line_of_its_own_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="cannot be set"):
        set_value(TEXT, path, 2, "why")


@given(st.sampled_from(["size", "share", "fresh"]), st.one_of(st.none(), st.integers(), st.sampled_from(["auto", "fp8"])))
def test_the_content_is_what_was_asked(key: str, value: object) -> None:
    expected = yaml.safe_load(TEXT)
    expected["engine"].pop(key, None)
    expected["engine"] |= {} if value is None else {key: value}
    assert yaml.safe_load(set_value(TEXT, ("engine", key), value, "why")) == expected
