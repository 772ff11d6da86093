"""Google-managed certificates for the addresses of `expose`: one certificate, and the map by which the Gateway finds it."""

from kuberay import names
from kuberay.gke.access import labelled
from kuberay.gke.gcloud import Argv, Resource
from kuberay.spec import Spec


def certificates(spec: Spec) -> list[Resource]:
    """What an address needs; nothing where none is exposed, or the map is somebody else's."""
    expose = spec.expose
    if expose is None or expose.certificate_map:
        return []
    certificate, the_map = f"{spec.name}-certificate", names.certificate_map(spec.name)
    made = [
        _resource(spec, "certificate", ("certificates",), (certificate,), (f"--domains={','.join(expose.hosts.values())}",)),
        _resource(spec, "certificate map", ("maps",), (the_map,), ()),
    ]
    for name, host in expose.hosts.items():
        entry, options = (f"{spec.name}-{name}", f"--map={the_map}"), (f"--hostname={host}", f"--certificates={certificate}")
        made.append(_resource(spec, f"certificate of {host}", ("maps", "entries"), entry, options))
    return made


def _resource(spec: Spec, title: str, kind: Argv, name: Argv, options: Argv) -> Resource:
    return labelled(
        spec,
        title,
        ("certificate-manager", *kind),
        name,
        options,
        state=lambda there: str((there.get("managed") or {}).get("state", "there")),
    )
