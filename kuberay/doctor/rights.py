"""What this user may do, for each command of scripts/cluster.py."""

from kuberay.doctor.finding import Diagnosis, Patient

_NEEDED = {
    "apply": (("patch", "{main}", ""), ("create", "{main}", ""), ("create", "Job", "")),
    "wait, status": (("get", "{main}", ""), ("list", "Pod", ""), ("list", "Event", "")),
    "deploy, forward": (("create", "Pod", "portforward"),),
    "logs": (("get", "Pod", "log"),),
    "down": (("delete", "{main}", ""),),
}


def rights(patient: Patient) -> list[Diagnosis]:
    """`kubectl auth can-i`, for everything that the commands do."""
    spec, missing = patient.spec, []
    for commands, wanted in _NEEDED.items():
        for verb, kind, subresource in wanted:
            name = kind.format(main=spec.kind)
            if not patient.api.may(verb, name, spec.namespace, subresource):
                missing.append(f"{verb} {name}{f'/{subresource}' if subresource else ''} (for {commands})")
    if missing:
        fix = f"have an administrator add you to `users` in the spec and apply it (namespace {spec.namespace})"
        return [Diagnosis("rights", "error", f"you may not {', '.join(missing)}", fix)]
    return [Diagnosis("rights", "ok", "you may run every command")]


CHECKS = (rights,)
