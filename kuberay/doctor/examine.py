"""Run all checks; one that fails is a finding too, and hides none of the others."""

from collections.abc import Callable, Sequence

from apps.common.errors import BundleError
from kuberay.doctor import deployment, platform, rights
from kuberay.doctor.finding import Diagnosis, Patient

_CHECKS: tuple[Callable[[Patient], list[Diagnosis]], ...] = (*platform.CHECKS, *rights.CHECKS, *deployment.CHECKS)
_ORDER = {"error": 0, "warning": 1, "unknown": 2, "ok": 3}


def examine(patient: Patient) -> list[Diagnosis]:
    """Every finding, the worst first."""
    found = [one for check in _CHECKS for one in _run(check, patient)]
    return sorted(found, key=lambda one: _ORDER[one.severity])


def _run(check: Callable[[Patient], Sequence[Diagnosis]], patient: Patient) -> Sequence[Diagnosis]:
    try:
        return check(patient)
    except BundleError as error:
        return [Diagnosis(check.__name__.replace("_", " "), "unknown", str(error))]
