"""What a new config does to the apps that run."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from kuberay.consistency import with_names
from kuberay.rollout.effects import as_text, chips, describe, drain_s, effects
from tests.e2e.conftest import ROOT

DEPLOYED: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "gemma.yaml").read_text())


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    new = copy.deepcopy(DEPLOYED)
    change(new)
    return new


def llm(config: dict[str, Any]) -> dict[str, Any]:
    llm_config: dict[str, Any] = config["applications"][0]["args"]["llm_configs"][0]
    return llm_config


def kinds(new: dict[str, Any], **options: bool) -> dict[str, str]:
    return {effect.app: effect.kind for effect in effects(DEPLOYED, new, **options)}


def test_the_same_config_does_nothing() -> None:
    assert set(kinds(copy.deepcopy(DEPLOYED)).values()) == {"nothing"}


def test_an_argument_restarts_its_app_alone_and_is_named() -> None:
    new = changed(lambda config: llm(config)["engine_kwargs"].update(max_num_seqs=64))
    first, *others = effects(DEPLOYED, new)
    assert (first.kind, first.keys) == ("restart", ("args.llm_configs[0].engine_kwargs.max_num_seqs",))
    assert {effect.kind for effect in others} == {"nothing"}


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("max_ongoing_requests", 64, "in place"),
        ("num_replicas", 2, "in place"),
        ("user_config", {"a": 1}, "in place"),
        ("ray_actor_options", {"num_cpus": 2}, "restart"),
    ],
)
def test_a_deployments_option_is_taken_as_serve_takes_it(option: str, value: object, kind: str) -> None:
    new = changed(lambda config: config["applications"][1].update(deployments=[{"name": "Chat", option: value}]))
    assert kinds(new) == {"llm": "nothing", "chat": kind}


def test_apps_come_and_go() -> None:
    new = changed(lambda config: config["applications"][1].update(name="other"))
    assert kinds(new) == {"llm": "nothing", "other": "start"}
    assert kinds(new, remove_others=True) == {"llm": "nothing", "other": "start", "chat": "remove"}


def test_serves_own_options_need_a_new_start() -> None:
    new = changed(lambda config: config["http_options"].update(port=9000))
    assert effects(DEPLOYED, new)[-1].keys == ("http_options.port",)
    assert kinds(new)["Serve"] == "new cluster"


def test_the_logging_of_the_whole_is_that_of_each_app_and_is_taken_in_place() -> None:
    deployed = with_names({**DEPLOYED, "logging_config": {"encoding": "JSON"}})
    changes = effects(deployed, with_names({**DEPLOYED, "logging_config": {"encoding": "TEXT"}}))
    assert [(effect.kind, effect.keys) for effect in changes] == [("in place", ("logging_config.encoding",))] * 2


def test_chips_and_drain() -> None:
    two = changed(lambda config: llm(config)["deployment_config"].update(num_replicas=2))
    assert chips(DEPLOYED, DEPLOYED) == {"before": 16, "after": 16, "peak": 16}
    assert chips(DEPLOYED, two) == {"before": 16, "after": 32, "peak": 32}
    surging = changed(lambda config: llm(config)["deployment_config"].update(max_surge_percent=100))
    assert chips(DEPLOYED, surging) == {"before": 16, "after": 16, "peak": 32}
    assert drain_s(DEPLOYED) == llm(DEPLOYED)["deployment_config"]["graceful_shutdown_timeout_s"]


def test_a_change_reads_as_its_cost() -> None:
    new = changed(lambda config: llm(config)["engine_kwargs"].update(max_num_seqs=64))
    change = describe(DEPLOYED, new, effects(DEPLOYED, new))
    assert as_text(change).splitlines() == [
        "  llm          restart: args.llm_configs[0].engine_kwargs.max_num_seqs",
        "  chat         nothing",
        "  chips        16 now, 16 after, 16 at most on the way",
        f"  requests     running answers have {drain_s(DEPLOYED):.0f} s to end, new ones get 503 with Retry-After until the "
        "one replica is back",
        "  time         not measured yet: no such change was made here before",
    ]
    assert "one is changed after the other" in as_text({**change, "replicas": 2})
    assert "took 90 s, the model was away for 60 s" in as_text({**change, "measured_s": 90.0, "measured_away_s": 60.0})
