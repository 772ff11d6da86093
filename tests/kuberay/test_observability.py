"""Dashboards and alert rules: what they ask Prometheus, and that each alert fires, clears and is explained."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from emulation.hosts.observe import alerts_page, wait_until_ready
from emulation.hosts.preflight import free_ports
from kuberay.observability.dashboards import Dashboard, dashboards, to_console, to_grafana, to_json
from kuberay.observability.rules import in_namespace, rules, shrunk
from tests.e2e.conftest import ROOT

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_rules_in_all_forms(tmp_path: Path) -> None:
    for name, content in (("own", rules()), ("shrunk", shrunk(rules(), 60, 30)), ("scoped", in_namespace(rules(), "gemma"))):
        (tmp_path / name).write_text(yaml.safe_dump(content))
        promtool("check", "rules", str(tmp_path / name))


@needs_promtool
def test_each_alert_fires_and_clears_on_synthetic_series(tmp_path: Path) -> None:
    tests = yaml.safe_load((ROOT / "tests" / "kuberay" / "alerts_test.yaml").read_text())
    bare = rules()
    for rule in (rule for group in bare["groups"] for rule in group["rules"]):
        del rule["annotations"]  # what is tried is when it fires, not its words
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(bare))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
    tried = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert tried == alert_names()


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "alerts").glob("*.md")} == alert_names()
    assert all((ROOT / rule["annotations"]["runbook"]).exists() for group in rules()["groups"] for rule in group["rules"])


def test_shrunk_rules_keep_all_but_their_time() -> None:
    short = {rule["alert"]: rule for group in shrunk(rules(), 60, 30)["groups"] for rule in group["rules"]}
    for group in rules()["groups"]:
        for rule in group["rules"]:
            other = short[rule["alert"]]
            assert re.sub(r"\d+[smhd]\b", "", other["expr"]) == re.sub(r"\d+[smhd]\b", "", rule["expr"])
            assert ("for" in other) == ("for" in rule)
    assert "[1h]" in rules()["groups"][0]["rules"][1]["expr"]
    assert "[60s]" in short["RequestsFailFast"]["expr"]
    assert "offset 30s" in short["WeightsMismatch"]["expr"]


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda dashboard: dashboard.name)
def test_grafana_gets_every_panel_once(dashboard: Dashboard) -> None:
    page = to_grafana(dashboard, "gemma")
    assert json.loads(to_json(dashboard, "gemma")) == page
    assert len(to_json(dashboard, "gemma").splitlines()) == len(page["panels"]) + 2
    assert len(to_grafana(dashboard, "n" * 63)["uid"]) <= 40
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in page["panels"]}) == len(page["panels"])
    assert all(target["expr"] and "[window]" not in target["expr"] for panel in page["panels"] for target in panel["targets"])


def test_what_looks_at_one_namespace_looks_there_alone() -> None:
    asked = [rule["expr"] for group in in_namespace(rules(), "gemma")["groups"] for rule in group["rules"]]
    boards = [to_grafana(dashboard, "gemma") for dashboard in dashboards()]
    asked += [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    for expression in asked:
        scoped = re.findall(r"\bray_\w+{namespace=\"gemma\"[,}]", expression)
        assert 0 < len(scoped) == len(re.findall(r"\bray_", expression)), expression


@needs_promtool
def test_the_dashboards_questions_are_promql(tmp_path: Path) -> None:
    boards = [to_grafana(dashboard, "gemma") for dashboard in dashboards()]
    asked = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    recorded = [{"record": f"asked:{n}", "expr": query.replace("$__rate_interval", "1m")} for n, query in enumerate(asked)]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))
    promtool("check", "rules", str(tmp_path / "asked.yaml"))


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)")
def test_the_link_to_the_alerts_leads_to_a_page(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("{}")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen(["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
    try:
        wait_until_ready(process, url)
        assert httpx.get(url + alerts_page(url), timeout=5, follow_redirects=True).status_code == 200
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda dashboard: dashboard.name)
def test_the_console_holds_nothing_that_its_template_would_fill_in(dashboard: Dashboard) -> None:
    page = to_console(dashboard, dashboards(), "1m", "/alerts")
    assert "{{" not in page
    assert "__" not in re.sub(r"__name__", "", page)
    assert '<a href="/alerts">' in page
    assert all(f"{other.name}.html" in page for other in dashboards())


def alert_names() -> set[str]:
    return {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}
