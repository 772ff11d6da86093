"""Google-managed certificates for the addresses of `expose`: one certificate, and the map by which the Gateway finds it."""

from kuberay import names
from kuberay.gke.access import has_labels, labels, project
from kuberay.gke.gcloud import Argv, Resource
from kuberay.spec import Spec

_MANAGER = ("certificate-manager",)


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
    where = (*name, project(spec))
    return Resource(
        title,
        (*_MANAGER, *kind, "describe", *where),
        ((*_MANAGER, *kind, "create", *where, *options, f"--labels={labels(spec)}"),),
        ((*_MANAGER, *kind, "delete", *where),),
        is_ours=lambda there: has_labels(there.get("labels"), spec),
        state=lambda there: str((there.get("managed") or {}).get("state", "there")),
    )
