"""What the TPU engine cannot do: refused where it would end or fail, refused or named where it would be dropped in silence."""

from pathlib import Path
from typing import Any

import pytest

from apps.guard.answers import Refusal
from apps.guard.engine_limits import UNSUPPORTED, check_supported
from tests.guard.served import HELLO, MODEL, post, served

ENDS_OR_FAILS: dict[str, tuple[dict[str, Any], bool]] = {
    "prompt_logprobs": ({"prompt_logprobs": 0}, True),
    "echo with logprobs": ({"echo": True, "logprobs": 1}, False),
    "allowed_token_ids": ({"allowed_token_ids": [1]}, True),
    "chat logprobs alone": ({"logprobs": True}, True),
    "completions logprobs 0": ({"logprobs": 0}, False),
    "seed": ({"seed": 7}, True),
}
IGNORED: dict[str, Any] = {
    "presence_penalty": 0.5,
    "frequency_penalty": -1,
    "repetition_penalty": 1.1,
    "min_p": 0.1,
    "logit_bias": {"5": 1},
    "bad_words": ["x"],
    "min_tokens": 3,
}


@pytest.mark.parametrize("case", ENDS_OR_FAILS)
@pytest.mark.parametrize("allow_ignored", [False, True])
def test_what_ends_the_engine_or_fails_is_always_refused(case: str, allow_ignored: bool) -> None:
    fields, chat = ENDS_OR_FAILS[case]
    with pytest.raises(Refusal) as caught:
        check_supported(fields, "vllm-tpu", chat=chat, allow_ignored=allow_ignored)
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert check_supported(fields, "vllm", chat=chat, allow_ignored=False) == []


@pytest.mark.parametrize("name", IGNORED)
def test_what_would_be_dropped_in_silence_is_refused_or_named(name: str) -> None:
    with pytest.raises(Refusal):
        check_supported({name: IGNORED[name]}, "vllm-tpu", chat=True, allow_ignored=False)
    assert check_supported({name: IGNORED[name]}, "vllm-tpu", chat=True, allow_ignored=True) == [name]


def test_every_entry_of_the_table_is_tried_here() -> None:
    tried = {name for fields, _ in ENDS_OR_FAILS.values() for name in fields} | set(IGNORED)
    assert set(UNSUPPORTED["vllm-tpu"]) <= tried


def test_values_that_change_nothing_pass() -> None:
    neutral = {name: value for name, entry in UNSUPPORTED["vllm-tpu"].items() for value in entry.neutral}
    assert check_supported({**neutral, "logprobs": True, "top_logprobs": 2}, "vllm-tpu", chat=True, allow_ignored=False) == []


def test_a_client_is_told_which_fields_were_dropped(tmp_path: Path) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2, "min_p": 0.1}
    with served(None, tmp_path, engine_name="vllm-tpu") as server:
        refused = post(server, None, body, "/v1/chat/completions")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "min_p")
    with served(None, tmp_path, engine_name="vllm-tpu", ignored_fields="warn") as server:
        taken = post(server, None, body, "/v1/chat/completions")
        assert (taken.status_code, taken.headers["warning"]) == (200, '299 - "ignored by the engine: min_p"')
