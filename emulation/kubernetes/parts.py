"""The programs of a control plane: the command line of each, and the files that they read."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from emulation.kubernetes.build import Programs
from emulation.kubernetes.client import LOOPBACK, write_kubeconfig
from emulation.kubernetes.layout import Layout, Ports
from emulation.kubernetes.pki import Authority, make_signing_key

OPERATOR_NAMESPACE = "ray-system"
_OPERATOR_ACCOUNT = "kuberay-operator"
_CONTROLLERS = (
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
    "clusterrole-aggregation-controller",
    "resourcequota-controller",
    "resourceclaim-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "disruption-controller",
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "job-controller",
    "ttl-after-finished-controller",
)
# Beyond that Go looks harder for memory to free; the API server would take 700 MiB.
_LEAN = {"GOMEMLIMIT": "600MiB"}


@dataclass(frozen=True)
class Part:
    """One program. It is started once the file `after` is there, in order and again whenever it ends."""

    name: str
    command: list[str]
    environment: dict[str, str]
    after: str | None = None


def lay_out(layout: Layout, programs: Programs, ports: Ports, nodes: tuple[str, str] | None) -> None:
    """Write all that the supervisor and its parts read: certificates, kubeconfigs, configurations, command lines.

    `nodes`: what their pods are (`emulated`: nothing runs in them, or `running`) and the slice's topology; None for no nodes.
    """
    for name in ("pki", "logs", "etcd"):
        (layout.directory / name).mkdir(mode=0o700)
    cluster = layout.cluster_authority
    etcd = Authority(layout.directory / "pki", "etcd-ca")
    names = (LOOPBACK, "localhost", "kubernetes.default.svc", "10.96.0.1")
    cluster.issue("serving", "kube-apiserver", hosts=names)
    cluster.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    make_signing_key(layout.directory / "pki" / "accounts.key")
    etcd.issue("etcd", "etcd", hosts=(LOOPBACK,))
    account = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{_OPERATOR_ACCOUNT}"
    for name, user, groups in (
        ("admin", "admin", ["system:masters"]),
        ("controllers", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
        ("operator", account, ["system:serviceaccounts", f"system:serviceaccounts:{OPERATOR_NAMESPACE}"]),
    ):
        pair = cluster.issue(name, user, groups)
        write_kubeconfig(
            layout.directory / f"{name}.kubeconfig", f"https://{LOOPBACK}:{ports.api}", cluster.pair.certificate, pair
        )
    _write(layout.directory / "egress.yaml", _egress(layout))
    _write(layout.directory / "scheduler.yaml", _scheduler(layout))
    parts = [
        _etcd(layout, programs, ports),
        _api_server(layout, programs, ports),
        *_controllers(layout, programs, ports),
        *([_nodes(layout, *nodes)] if nodes else []),
    ]
    layout.parts.write_text(json.dumps([asdict(part) for part in parts], indent=1))


def _etcd(layout: Layout, programs: Programs, ports: Ports) -> Part:
    pki = layout.directory / "pki"
    client, peer = f"https://{LOOPBACK}:{ports.etcd}", f"https://{LOOPBACK}:{ports.etcd_peer}"
    command = [
        str(programs.path("etcd")),
        f"--data-dir={layout.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # nothing here outlives the machine
        "--log-level=warn",
        *(
            f"--{kind}{option}={path}"
            for kind in ("", "peer-")
            for option, path in (
                ("cert-file", pki / "etcd.crt"),
                ("key-file", pki / "etcd.key"),
                ("trusted-ca-file", pki / "etcd-ca.crt"),
                ("client-cert-auth", "true"),
            )
        ),
    ]
    return Part("etcd", command, _LEAN)


def _api_server(layout: Layout, programs: Programs, ports: Ports) -> Part:
    pki = layout.directory / "pki"
    command = [
        str(programs.path("kube-apiserver")),
        f"--etcd-servers=https://{LOOPBACK}:{ports.etcd}",
        f"--etcd-cafile={pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki / 'etcd.crt'}",
        f"--etcd-keyfile={pki / 'etcd.key'}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={ports.api}",
        "--external-hostname=localhost",
        "--endpoint-reconciler-type=none",  # it refuses an address of loopback
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
        f"--client-ca-file={pki / 'cluster-ca.crt'}",
        "--authorization-mode=RBAC",
        # As on GKE: a pod that asks for google.com/tpu tolerates the taint of that name.
        "--enable-admission-plugins=ExtendedResourceToleration",
        "--allow-privileged=true",  # as on GKE: what refuses privileged pods is a namespace's own level or policy
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki / 'accounts.key'}",
        f"--service-account-key-file={pki / 'accounts.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--egress-selector-config-file={layout.directory / 'egress.yaml'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--enable-priority-and-fairness=false",
        # A node that stopped answering loses its pods after so long; the default is 300 s.
        "--default-not-ready-toleration-seconds=2",
        "--default-unreachable-toleration-seconds=2",
        "--shutdown-delay-duration=0s",
    ]
    return Part("kube-apiserver", command, _LEAN)


def _controllers(layout: Layout, programs: Programs, ports: Ports) -> list[Part]:
    """Controller manager, scheduler and operator, which find all they need in the API server."""
    pki, after = layout.directory / "pki", str(layout.installed)
    serving = [
        f"--bind-address={LOOPBACK}",
        f"--tls-cert-file={layout.serving.certificate}",
        f"--tls-private-key-file={layout.serving.key}",
    ]
    manager = [
        str(programs.path("kube-controller-manager")),
        *serving,
        f"--secure-port={ports.controllers}",
        f"--kubeconfig={layout.directory / 'controllers.kubeconfig'}",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'accounts.key'}",
        f"--root-ca-file={pki / 'cluster-ca.crt'}",
        "--leader-elect=false",
        "--node-monitor-grace-period=24h",  # emulated nodes send no heartbeats; a crash is reported, not waited for
        "--node-monitor-period=1s",
    ]
    scheduler = [
        str(programs.path("kube-scheduler")),
        *serving,
        f"--secure-port={ports.scheduler}",
        f"--config={layout.directory / 'scheduler.yaml'}",
    ]
    operator = [
        str(programs.path("ray-operator")),
        "--metrics-addr=0",
        "--enable-leader-election=false",
        f"--health-probe-bind-address={LOOPBACK}:{ports.operator}",
        "--use-kubernetes-proxy",  # it runs outside of the cluster, as pods' addresses mean nothing here
    ]
    return [
        Part("kube-controller-manager", manager, _LEAN, after),
        Part("kube-scheduler", scheduler, _LEAN, after),
        Part("ray-operator", operator, {**_LEAN, "KUBECONFIG": str(layout.directory / "operator.kubeconfig")}, after),
    ]


def _nodes(layout: Layout, how: str, topology: str) -> Part:
    command = [sys.executable, "-m", "emulation.kubernetes", "emulate", str(layout.directory), topology, how]
    return Part("nodes", command, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}, str(layout.installed))


def _egress(layout: Layout) -> dict[str, object]:
    through = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(layout.egress_socket)}}}
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [
            {"name": "cluster", "connection": through},
            {"name": "controlplane", "connection": {"proxyProtocol": "Direct"}},
            {"name": "etcd", "connection": {"proxyProtocol": "Direct"}},
        ],
    }


def _scheduler(layout: Layout) -> dict[str, object]:
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(layout.directory / "scheduler.kubeconfig")},
        "leaderElection": {"leaderElect": False},
        "podMaxBackoffSeconds": 1,  # after new nodes; the default is 10 s
    }


def installed_objects() -> list[dict[str, object]]:
    """What KubeRay's Helm chart makes for its operator, beside the cluster role of the operator's module."""
    account = {"name": _OPERATOR_ACCOUNT, "namespace": OPERATOR_NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _OPERATOR_ACCOUNT}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _OPERATOR_ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", **account}],
            "roleRef": role,
        },
    ]


def _write(path: Path, document: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(document))
