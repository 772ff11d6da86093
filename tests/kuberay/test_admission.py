"""The API server itself refuses pods that would mount or read what is not theirs, in plain words."""

from typing import Any

import pytest

from emulation.kubernetes.nodes.api import Json, wait_for
from tests.kuberay.deployment import Deployment

pytestmark = pytest.mark.full


@pytest.fixture
def guarded(deployment: Deployment) -> Deployment:
    """The namespace with its policy in force, and secrets in it."""
    deployment.apply()
    deployment.give_secrets()
    wait_for(
        lambda: create(deployment, with_secret("default", "api-keys")).status_code == 403, 30, "the policy is not in force"
    )
    return deployment


def pod(name: str) -> Json:
    """A pod of one container."""
    containers = [{"name": "main", "image": "us-docker.pkg.dev/emulated/ray/serve:1"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}}


def create(deployment: Deployment, made: Json) -> Any:
    return deployment.plane.api.client.post(deployment.path("pods"), json=made, params={"dryRun": "All"})


def changed(account: str = "gemma-serve", container: Json | None = None, **spec: Any) -> Json:
    """A pod as the namespace's level wants it, with changes."""
    made = pod("tried")
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    made["spec"]["containers"][0] |= {"securityContext": context, **(container or {})}
    made["spec"] |= {
        "serviceAccountName": account,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **spec,
    }
    return made


def with_secret(account: str, secret: str) -> Json:
    return changed(account, volumes=[{"name": "x", "secret": {"secretName": secret}}])


def reference(kind: str, name: str) -> Json:
    return {"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": "x"}}}]}


def projected(kind: str, name: str) -> list[Json]:
    return [{"name": "x", "projected": {"sources": [{kind: {"name": name}}]}}]


@pytest.mark.parametrize("account", ["gemma-serve", "gemma-stage", "default"])
def test_a_pod_reads_only_its_own_accounts_secrets(guarded: Deployment, account: str) -> None:
    for secret in ("api-keys", "hub-token", "gemma"):
        own = secret in {"gemma-serve": ("api-keys", "gemma"), "gemma-stage": ("hub-token",)}.get(account, ())
        for made in (
            with_secret(account, secret),
            changed(account, volumes=projected("secret", secret)),
            changed(account, reference("secretKeyRef", secret)),
            changed(account, {"envFrom": [{"secretRef": {"name": secret}}]}),
            changed(
                account,
                initContainers=[
                    {
                        **pod("x")["spec"]["containers"][0],
                        **changed(account, reference("secretKeyRef", secret))["spec"]["containers"][0],
                        "name": "first",
                    }
                ],
            ),
        ):
            answer = create(guarded, made)
            assert answer.status_code == (201 if own else 403), (secret, made, answer.text)
            if not own:
                assert (
                    f"a pod of the account {account} in namespace {guarded.namespace} may read no secret but: " in answer.text
                )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "no hostPath"),
        ({"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "x"}}]}, "no claim"),
        ({"volumes": [{"name": "x", "configMap": {"name": "gemma-dashboards"}}]}, "no config map but"),
        ({"volumes": projected("configMap", "gemma-dashboards")}, "no config map but"),
        ({"container": reference("configMapKeyRef", "gemma-dashboards")}, "no config map but"),
        ({"container": {"envFrom": [{"configMapRef": {"name": "gemma-dashboards"}}]}}, "no config map but"),
        ({"container": {"securityContext": {"privileged": True}}}, "not privileged"),
        ({"hostNetwork": True}, "share nothing with their node"),
        ({"hostPID": True}, "share nothing with their node"),
        ({"account": "other"}, "run as gemma-serve, gemma-stage, default"),
    ],
)
def test_what_no_pod_may_have_is_refused_in_words(guarded: Deployment, changes: dict[str, Any], message: str) -> None:
    api, path = guarded.plane.api, f"/api/v1/namespaces/{guarded.namespace}"
    # Kubernetes' own level would refuse some of it first: the policy must hold where it is not set
    level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    api.client.patch(path, json=level, headers={"content-type": "application/merge-patch+json"}).raise_for_status()
    accounts = guarded.path("serviceaccounts")
    if api.find(f"{accounts}/other") is None:
        api.create(accounts, {"metadata": {"name": "other"}})
    made = changed(**changes)
    wait_for(lambda: "ValidatingAdmissionPolicy" in create(guarded, made).text, 30, "the policy does not refuse it")
    answer = create(guarded, made)
    assert answer.status_code == 403
    assert message in answer.text


def test_a_job_that_mounts_another_secret_makes_no_pod_and_says_why(guarded: Deployment) -> None:
    api = guarded.plane.api
    template = {"spec": {**with_secret("default", "hub-token")["spec"], "restartPolicy": "Never"}}
    api.create(guarded.path("jobs", group="batch/v1"), {"metadata": {"name": "thief"}, "spec": {"template": template}})

    def refused() -> list[str]:
        events = api.items(guarded.path("events"))
        return [
            event["message"]
            for event in events
            if event["involvedObject"]["name"] == "thief" and "may read no secret" in event["message"]
        ]

    wait_for(refused, 30, "nothing is reported about the job")
    assert guarded.pods("batch.kubernetes.io/job-name=thief") == []


def test_an_added_container_reads_no_secret_either(guarded: Deployment) -> None:
    api = guarded.plane.api
    api.create(guarded.path("pods"), changed("gemma-stage"))
    more = {
        "spec": {
            "ephemeralContainers": [
                {**changed("", reference("secretKeyRef", "api-keys"))["spec"]["containers"][0], "name": "more"}
            ]
        }
    }
    answer = api.client.patch(
        guarded.path("pods", "tried/ephemeralcontainers"),
        json=more,
        headers={"content-type": "application/strategic-merge-patch+json"},
    )
    assert answer.status_code == 403
    assert "may read no secret but: hub-token" in answer.text


@pytest.mark.parametrize(
    "changes",
    [
        {"fault_tolerance": {"address": "redis:6379", "password": {"name": "redis", "key": "password"}}},
        {"kind": "RayService"},
    ],
    ids=["redis", "service"],
)
@pytest.mark.usefixtures("slice_nodes")
def test_the_projects_own_pods_pass(deployment: Deployment, changes: dict[str, Any]) -> None:
    """The example's are in every other test of this folder."""
    deployment.change(**changes)
    deployment.prepare()
    api, jobs = deployment.plane.api, deployment.path("jobs", group="batch/v1")
    api.create(deployment.path("secrets"), {"metadata": {"name": "redis"}, "stringData": {"password": "x"}})
    deployment.do("apply")
    deployment.do("apply")  # the policy is in force by now, and what is there stays
    api.delete(jobs, propagationPolicy="Background")
    wait_for(lambda: not api.get(jobs)["items"], 60, "the staging job does not go")
    api.delete(deployment.path("pods"), gracePeriodSeconds=0)
    deployment.do("apply")
    wait_for(lambda: len(deployment.pods()) == 5, 60, "the pods do not come")
    wait_for(lambda: api.get(jobs)["items"][0]["status"].get("succeeded"), 60, "the staging job's pod does not come")
