"""Who may do what in Google Cloud: accounts for nodes and build, and the pods' rights on the bucket; and whose a thing is."""

from typing import Any

from apps.llm.cache_identity import programs_url
from kuberay import names
from kuberay.gke.gcloud import PROJECT_NUMBER, Argv, Description, Resource
from kuberay.spec import Spec

NODE_ROLES = ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader")
BUILD_ROLES = ("roles/cloudbuild.builds.builder",)
NEEDED_ROLES = (
    *("roles/container.admin", "roles/storage.admin", "roles/artifactregistry.admin", "roles/cloudbuild.builds.editor"),
    *("roles/serviceusage.serviceUsageAdmin", "roles/iam.serviceAccountAdmin", "roles/iam.serviceAccountUser"),
    "roles/resourcemanager.projectIamAdmin",
)
"""What whoever runs `up` needs in the project; the last two are for the accounts that it makes."""


def project(spec: Spec) -> str:
    return f"--project={spec.cloud.project}"


def labels(spec: Spec) -> str:
    """Which deployment made it: another one may use the same cluster or bucket, and must not remove it."""
    return f"managed-by={names.MANAGER},deployment={spec.name}"


def has_labels(there: Description, spec: Spec) -> bool:
    """Whether a description has those labels; GKE's clusters and node pools show theirs as `resourceLabels`."""
    given = there.get("labels") or there.get("resourceLabels") or (there.get("config") or {}).get("resourceLabels") or {}
    return {"managed-by": names.MANAGER, "deployment": spec.name}.items() <= given.items()


def labelled(spec: Spec, title: str, kind: Argv, name: Argv, options: Argv, **functions: Any) -> Resource:
    """A thing that is described, made and deleted by its name (with its place), and that has the deployment's labels."""
    where = (*name, project(spec))
    return Resource(
        title,
        (*kind, "describe", *where),
        ((*kind, "create", *where, *options, f"--labels={labels(spec)}"),),
        ((*kind, "delete", *where),),
        is_ours=lambda there: has_labels(there, spec),
        **functions,
    )


def email(spec: Spec, use: str) -> str:
    """The address of a service account of Google's; its name has at most 30 characters."""
    if use == "nodes" and spec.cloud.node_account:
        return spec.cloud.node_account
    return f"{spec.name[:24].rstrip('-')}-{use}@{spec.cloud.project}.iam.gserviceaccount.com"


def account(spec: Spec, use: str, roles: Argv) -> list[Resource]:
    """An account for the nodes or the build, and its roles: the default accounts of a new organisation have none."""
    address, accounts = email(spec, use), ("iam", "service-accounts")
    member = f"serviceAccount:{address}"
    made = Resource(
        f"account of the {use}",
        (*accounts, "describe", address, project(spec)),
        ((*accounts, "create", address.partition("@")[0], project(spec), f"--description={labels(spec)}"),),
        ((*accounts, "delete", address, project(spec)),),
        is_ours=lambda there: there.get("description") == labels(spec),
    )
    return [made, *(_binding(f"{role} for {address}", ("projects",), spec.cloud.project, member, role) for role in roles)]


def bindings(spec: Spec) -> list[Resource]:
    """What the pods may do with the bucket, as themselves (Workload Identity Federation): no service account of Google, no key.

    Serving reads, and writes the programs that its engine has compiled for this model; staging writes.
    """
    serving, staging = names.serving_account(spec.name), names.staging_account(spec.name)
    return [
        _on_bucket(spec, serving, "roles/storage.objectViewer"),
        _on_bucket(spec, serving, "roles/storage.objectUser", programs_url(spec.weights_url, "")),
        _on_bucket(spec, staging, "roles/storage.objectUser"),
        _on_bucket(spec, staging, "roles/storage.legacyBucketReader"),  # to see where the bucket is
    ]


def _on_bucket(spec: Spec, account: str, role: str, below: str | None = None) -> Resource:
    """A role of a Kubernetes account on the whole bucket, or on what is below a URL in it."""
    pool = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{spec.cloud.project}.svc.id.goog"
    member = f"principal://iam.googleapis.com/{pool}/subject/ns/{spec.namespace}/sa/{account}"
    bucket = f"gs://{spec.bucket}"
    # as IAM writes it, which also has to be so when the right is taken back
    prefix = f"projects/_/buckets/{spec.bucket}/objects/{below.removeprefix(f'{bucket}/')}" if below else None
    expression = f'resource.name.startsWith("{prefix}")' if prefix else None
    title = f"{role} on {below or 'the bucket'} for {account}"
    return _binding(title, ("storage", "buckets"), bucket, member, role, expression)


def _binding(title: str, what: Argv, name: str, member: str, role: str, expression: str | None = None) -> Resource:
    """A role of a member on a project or a bucket."""
    ending = member.rpartition(PROJECT_NUMBER)[2]  # a policy has the number itself
    # A policy with a condition takes no change that leaves the condition open.
    condition = f"expression={expression},title={member.rpartition('/')[2]}" if expression else "None"
    change = (name, f"--member={member}", f"--role={role}", f"--condition={condition}")

    def is_there(policy: Description) -> bool:
        granted = (policy or {}).get("bindings", [])
        alike = [binding for binding in granted if binding["role"] == role]
        same = [binding for binding in alike if (binding.get("condition") or {}).get("expression") == expression]
        return any(member.endswith(ending) for binding in same for member in binding["members"])

    return Resource(
        title,
        (*what, "get-iam-policy", name),
        ((*what, "add-iam-policy-binding", *change),),
        ((*what, "remove-iam-policy-binding", *change),),
        is_there=is_there,
    )
