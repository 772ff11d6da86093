"""What the pods may do with the bucket.

They get their rights as themselves (Workload Identity Federation): no service account of Google Cloud, no key.
"""

from apps.llm.cache_identity import programs_url
from kuberay import names
from kuberay.gke.gcloud import PROJECT_NUMBER, Description, Resource
from kuberay.spec import Spec


def bindings(spec: Spec) -> list[Resource]:
    """Serving reads, and writes the programs that its engine has compiled for this model; staging writes."""
    serving, staging = names.serving_account(spec.name), names.staging_account(spec.name)
    return [
        _binding(spec, serving, "roles/storage.objectViewer"),
        _binding(spec, serving, "roles/storage.objectUser", programs_url(spec.weights_url, "")),
        _binding(spec, staging, "roles/storage.objectUser"),
        _binding(spec, staging, "roles/storage.legacyBucketReader"),  # to see where the bucket is
    ]


def _binding(spec: Spec, account: str, role: str, below: str | None = None) -> Resource:
    """A role on the whole bucket, or on what is below a URL in it."""
    pool = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{spec.cloud.project}.svc.id.goog"
    ending = f"/subject/ns/{spec.namespace}/sa/{account}"
    bucket = f"gs://{spec.bucket}"
    expression = _names_begin_with(spec.bucket, below.removeprefix(f"{bucket}/")) if below else None
    # A policy with a condition takes no change that leaves the condition open.
    condition = f"expression={expression},title={account}" if expression else "None"
    who = f"--member=principal://iam.googleapis.com/{pool}{ending}"
    change = (bucket, who, f"--role={role}", f"--condition={condition}")

    def is_there(policy: Description) -> bool:
        granted = (policy or {}).get("bindings", [])
        same = [binding for binding in granted if binding["role"] == role and _condition(binding) == expression]
        return any(member.endswith(ending) for binding in same for member in binding["members"])

    return Resource(
        f"{role} on {below or 'the bucket'} for {account}",
        ("storage", "buckets", "get-iam-policy", bucket),
        (("storage", "buckets", "add-iam-policy-binding", *change),),
        (("storage", "buckets", "remove-iam-policy-binding", *change),),
        is_there=is_there,
    )


def _names_begin_with(bucket: str, prefix: str) -> str:
    """The condition as IAM wants it; it must be written the same way when the right is taken back."""
    return f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{prefix}")'


def _condition(binding: Description) -> str | None:
    return (binding.get("condition") or {}).get("expression")
