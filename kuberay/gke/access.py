"""Who may do what in Google Cloud: accounts for nodes and build, and the pods' rights on the bucket; and whose a thing is."""

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


def has_labels(labels: dict[str, str] | None, spec: Spec) -> bool:
    return {"managed-by": names.MANAGER, "deployment": spec.name}.items() <= (labels or {}).items()


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
    expression = _names_begin_with(spec.bucket, below.removeprefix(f"{bucket}/")) if below else None
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
        same = [binding for binding in granted if binding["role"] == role and _condition(binding) == expression]
        return any(member.endswith(ending) for binding in same for member in binding["members"])

    return Resource(
        title,
        (*what, "get-iam-policy", name),
        ((*what, "add-iam-policy-binding", *change),),
        ((*what, "remove-iam-policy-binding", *change),),
        is_there=is_there,
    )


def _names_begin_with(bucket: str, prefix: str) -> str:
    """The condition as IAM wants it; it must be written the same way when the right is taken back."""
    return f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{prefix}")'


def _condition(binding: Description) -> str | None:
    return (binding.get("condition") or {}).get("expression")
