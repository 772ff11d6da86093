"""A doctor's findings as text: the mark, what was seen, what to do, where it is described."""

from collections.abc import Sequence

from kuberay.doctor.finding import Diagnosis

_MARKS = {"error": "✗", "warning": "!", "unknown": "?", "ok": "✓"}


def report(found: Sequence[Diagnosis]) -> str:
    """One finding after the other, in the order given."""
    lines = []
    for one in found:
        lines.append(f"{_MARKS[one.severity]} {one.check}: {one.evidence}")
        lines += [f"    fix: {one.fix}"] if one.fix else []
        lines += [f"    see: {one.link}"] if one.link and one.severity != "ok" else []
    return "\n".join(lines)
