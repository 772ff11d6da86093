"""The `guard:` section, and which path it opens to whom."""

from typing import Any

import pytest
from pydantic import ValidationError

from apps.common.errors import UserError
from apps.guard.access import Access, Routes
from apps.guard.settings import GuardArgs, ReplicaGuard, replica_guard

KEYS = {"keys_files": ["/etc/guard/keys.json"]}


def args(**section: Any) -> GuardArgs:
    return GuardArgs.model_validate({**KEYS, **section})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "either keys_files, or open: true"),
        ({**KEYS, "open": True}, "not both"),
        ({"keys_files": ["keys.json"]}, "absolute path"),
        ({**KEYS, "key_file": "x"}, "Extra inputs"),
        ({**KEYS, "open": "no"}, "valid boolean"),
        ({**KEYS, "limits": {"requests_per_minute": "60"}}, "valid integer"),
        ({**KEYS, "limits": {"requests_per_minute": 0}}, "greater than or equal to 1"),
        ({**KEYS, "limits": {"requests": 5}}, "Extra inputs"),
        ({**KEYS, "bounds": {"body_bytes": 1.5}}, "valid integer"),
        ({**KEYS, "routes": ["v1/models"]}, "must be a path"),
        ({**KEYS, "routes": ["/*"]}, "must be a path"),
        ({**KEYS, "routes": ["/sleep"]}, "may only be in admin_routes"),
        ({**KEYS, "keyless_routes": ["/metrics"]}, "may only be in admin_routes"),
        ({**KEYS, "allowed_origins": ["*"]}, "must be an origin"),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GuardArgs.model_validate(section)


def test_the_replicas_part_survives_its_environment() -> None:
    replica = replica_guard(args(limits={"max_tokens": 5}), {"max_num_seqs": 128, "max_model_len": 8192}, 3, engines=2)
    assert (replica.capacity, replica.context_tokens, replica.replicas) == (256, 8192, 3)
    assert ReplicaGuard.parse(replica.model_dump_json()) == replica
    with pytest.raises(UserError, match=r"settings of the guard.*args"):
        ReplicaGuard.parse('{"args": {}}')


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/health", Access.PUBLIC),
        ("/v1/models", Access.KEY),
        ("/v1/models/google/gemma-4-31B-it", Access.KEY),
        ("/v1/chat/completions", Access.KEY),
        ("/metrics", Access.ADMIN),
        ("/v1/chat/completions/", Access.DENIED),
        ("/v1/Chat/completions", Access.DENIED),
        ("//v1/models", Access.DENIED),
        ("/v1/models/../../metrics", Access.KEY),  # a model's name to the server behind, which resolves no dots
        ("/v1/responses", Access.DENIED),
        ("/", Access.DENIED),
        *(
            (path, Access.DENIED)
            for path in ("/docs", "/openapi.json", "/sleep", "/pause", "/collective_rpc", "/start_profile")
        ),
        *(
            (path, Access.DENIED)
            for path in ("/v1/load_lora_adapter", "/scale_elastic_ep", "/reset_prefix_cache", "/invocations")
        ),
    ],
)
def test_only_what_is_listed_is_open(path: str, access: Access) -> None:
    assert Routes(args()).find(path)[0] is access


def test_the_audit_has_the_lists_entry_and_not_what_a_client_wrote() -> None:
    assert Routes(args()).find("/v1/models/" + "x" * 5000) == (Access.KEY, "/v1/models/*")


def test_the_engines_controls_open_to_admins_only_and_only_if_listed() -> None:
    assert Routes(args(admin_routes=["/sleep", "/wake_up"])).find("/sleep")[0] is Access.ADMIN
    wide = Routes(args(routes=["/v1/*"]))
    assert wide.find("/v1/responses")[0] is Access.KEY
    assert wide.find("/v1/load_lora_adapter")[0] is Access.DENIED


def test_an_open_server_has_no_admins() -> None:
    routes = Routes(GuardArgs.model_validate({"open": True}))
    assert routes.find("/v1/models")[0] is Access.KEY
    assert routes.find("/metrics")[0] is Access.DENIED
