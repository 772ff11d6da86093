"""What a spec may hold: everything else is refused by file, line and key."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.common.errors import UserError
from kuberay.consistency import load_checked
from kuberay.objects import parse_quantity
from kuberay.render import manifests
from kuberay.spec import load
from tests.kuberay.specs import spec, write_spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Gemma"}, "lower-case letters"),
        ({"name": "g" * 42}, "at most 41"),
        ({"name": "g" * 36, "kind": "RayService"}, "at most 35"),
        ({"namespace": "a_b"}, "namespace 'a_b'"),
        ({"image": "registry.example/server"}, "give a tag"),
        ({"image": "registry.example/server:latest"}, "give a tag other than latest"),
        ({"cloud__zone": "us-west1-a"}, "not in region 'us-east5'"),
        ({"cloud__project": "UPPER"}, "is no project id"),
        ({"cloud__mode": "auto"}, "'standard' or 'autopilot'"),
        ({"slices__topology": "5x5"}, "give one of 1x1, 2x2, 2x4, 4x4"),
        ({"slices__generation": "v9"}, "is no TPU generation"),
        ({"slices__cpu": "500"}, "a ct6e-standard-4t has 180"),
        ({"slices__memory": "lots"}, "is no Kubernetes quantity"),
        ({"slices__count": 0}, "greater than or equal to 1"),
        ({"slices__capacity__kind": "reservation"}, "give the name under `reservation`"),
        ({"slices__topolgy": "4x4"}, "did you mean topology?"),
        ({"bucket": "-x"}, "is no bucket name"),
        ({"users": {"viewers": ["alice"]}}, "is no user:..."),
        ({"users": ["user:alice@example.com"]}, "users"),
        ({"fault_tolerance": {"address": "redis"}}, "is no host:port"),
        ({"slices": None}, "'slices' is missing"),
        ({"traces": "otel-collector"}, "is no collector such as http://HOST:4317"),
        ({"expose": {"host": "llm"}}, "is no host name such as llm.example.com"),
        ({"expose": {"host": "llm.example.com"}, "api_keys": None}, "what people reach needs keys"),
        ({"expose": {"host": "llm.example.com", "dashboard": "ray.example.com"}}, "with `iap: true` alone"),
        ({"expose": {"host": "a.example.com", "dashboard": "a.example.com", "iap": True}}, "needs a host of its own"),
        ({"expose": {"host": "a.example.com", "proxy_ranges": ["10.999.0.0/23"]}}, "is no range such as 10.129.0.0/23"),
        ({"expose": {"host": "a.example.com", "proxy_ranges": ["10.129.0.1/23"]}}, "has host bits set"),
        ({"overlay": {"label": {}}}, "did you mean labels?"),
        ({"slices__capacity": []}, "at least 1"),
        ({"metrics": "prometheus"}, "'gmp', 'operator' or 'off'"),
        ({"metrics_labels": {"release": "x"}}, "give them with `metrics: operator`"),
    ],
)
def test_what_is_not_possible_is_refused_with_file_and_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_spec(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        load(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:")


def test_a_spec_that_is_none_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load(tmp_path / "list.yaml")


@pytest.mark.parametrize(("written", "meant"), [(True, "gmp"), (False, "off"), ("operator", "operator")])
def test_yamls_words_for_off_are_understood(written: object, meant: str, tmp_path: Path) -> None:
    assert spec(tmp_path, metrics=written).metrics == meant
    (tmp_path / "spec.yaml").write_text((tmp_path / "spec.yaml").read_text().replace("metrics: false", "metrics: off"))
    assert load(tmp_path / "spec.yaml").metrics == meant


def test_what_can_be_derived_is(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    assert (wanted.slices.shape.hosts, wanted.slices.shape.machine_type) == (4, "ct6e-standard-4t")
    assert wanted.weights_url == "gs://my-project-gemma/gemma-4-31b-it"


def test_one_secret_may_hold_every_key(tmp_path: Path) -> None:
    redis = {"address": "redis:6379", "password": {"name": "all", "key": "redis"}}
    wanted = spec(tmp_path, hub_token={"name": "all", "key": "token"}, fault_tolerance=redis, api_keys="all")
    assert wanted.secrets == {"all": ["token", "redis", "keys.json"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices__topology": "2x4"}, "topology: is '4x4', and the spec wants '2x4'"),
        ({"model__id": "google/gemma-3-27b-it"}, "model_id: is 'google/gemma-4-31B-it', and the spec wants"),
        (
            {"api_keys": None},
            "/etc/guard/keys.json comes from a secret that the spec does not name: give its name under api_keys",
        ),
        ({"slices__memory": "64Gi"}, "slices.memory: is 64Gi: weights in memory"),
    ],
)
def test_a_serve_config_that_says_something_else_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_checked(write_spec(tmp_path, **changes))
    assert message in str(refused.value)


def test_a_serve_config_with_a_slip_is_refused_too(tmp_path: Path) -> None:
    path = write_spec(tmp_path)
    config = load(path).serve_config_path.read_text()
    for before, after, message in (
        ("host: 0.0.0.0", "host: 127.0.0.1", "only the pod itself could reach it"),
        ("/weights/gemma", "/data/gemma", "only /weights is meant for it"),
        ("/cache/xla", "/root/xla", "only /cache is meant for it"),
        ("num_replicas: 1", "num_replicas: 2", "slices"),
        ("max_num_seqs", "max_num_seq", "did you mean max_num_seqs?"),
    ):
        other = tmp_path / "serve.yaml"
        assert before in config
        other.write_text(config.replace(before, after))
        with pytest.raises(UserError) as refused:
            load_checked(path, other)
        assert message in str(refused.value)


def test_an_app_without_a_name_has_serves_own(tmp_path: Path) -> None:
    config = yaml.safe_load(load(write_spec(tmp_path)).serve_config_path.read_text())
    del config["applications"][1]["name"]
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    apps = load_checked(tmp_path / "spec.yaml", tmp_path / "serve.yaml").serve_config["applications"]
    assert [app["name"] for app in apps] == ["llm", "default"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", "4"), ("100m", "0.1"), ("1.5", "1.5"), ("16Gi", str(16 * 1024**3)), ("2k", "2000"), ("1e3", "1000"), ("3E", "3e18")],
)
def test_quantities(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "four", "4 Gi", "4GiB", "1e", "--1"])
def test_other_texts_are_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        parse_quantity(text)


def test_a_patch_of_nothing_is_refused(tmp_path: Path) -> None:
    wanted = spec(tmp_path, overlay={"patches": {"Deployment/gemma": {}}})
    with pytest.raises(UserError, match="there is no Deployment/gemma; there are Namespace/gemma"):
        manifests(wanted, "")


@pytest.mark.parametrize(
    "patch",
    [
        {"kind": None},
        {"apiVersion": "v1"},
        {"metadata": None},
        {"metadata": "gemma"},
        {"metadata": {"name": "other"}},
        {"metadata": {"namespace": None}},
    ],
)
def test_a_patch_that_makes_another_object_is_refused(patch: dict[str, Any], tmp_path: Path) -> None:
    wanted = spec(tmp_path, overlay={"patches": {"NetworkPolicy/gemma": patch}})
    with pytest.raises(UserError, match="NetworkPolicy/gemma: apiVersion, kind, "):
        manifests(wanted, "")
