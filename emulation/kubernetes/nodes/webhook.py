"""GKE's Ray TPU webhook as a real admission webhook of the API server: TLS, JSON patches, refusals.

How GKE registers it is not published; the selector and the failure policy here are assumptions.
"""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from emulation.kubernetes.layout import Layout
from emulation.kubernetes.nodes.api import Api, Json, wait_for
from emulation.kubernetes.nodes.webhook_rules import MISMATCH, WebhookFailureError, patches, refusal

_REGISTRATIONS = "/apis/admissionregistration.k8s.io/v1"
_EFFECTIVE_S = 15


class TpuWebhook:
    """Use `running_tpu_webhook`."""

    def __init__(self, layout: Layout, api: Api) -> None:
        self._layout, self._api = layout, api
        self._broken: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self._broken))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(layout.serving.certificate, layout.serving.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def register(self) -> None:
        """Tell the API server; return when it asks."""
        mutating = self._registration("mutate", [""], "pods", ["CREATE"], {"app.kubernetes.io/name": "kuberay"})
        validating = self._registration("validate", ["ray.io"], "rayclusters", ["CREATE", "UPDATE"], {})
        self._api.create(f"{_REGISTRATIONS}/mutatingwebhookconfigurations", mutating)
        self._api.create(f"{_REGISTRATIONS}/validatingwebhookconfigurations", validating)
        probe = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "webhook-probe"}, "spec": _PROBE}
        path = "/apis/ray.io/v1/namespaces/default/rayclusters?dryRun=All"
        wait_for(lambda: MISMATCH in self._api.client.post(path, json=probe).text, _EFFECTIVE_S, "the webhook is not asked")

    def unregister(self) -> None:
        """Make it a cluster without such a webhook."""
        for kind in ("mutating", "validating"):
            self._api.delete(f"{_REGISTRATIONS}/{kind}webhookconfigurations/kuberay-tpu-{kind}-webhook")

    def break_down(self, *paths: str) -> None:
        """Answer with errors from now on, to /mutate (pods), /validate (RayClusters) or both."""
        self._broken.update(paths or ("/mutate", "/validate"))

    def mend(self) -> None:
        self._broken.clear()

    def close(self) -> None:
        self.unregister()
        self._server.shutdown()
        self._server.server_close()

    def _registration(self, path: str, groups: list[str], resource: str, operations: list[str], labels: Json) -> Json:
        kind = {"mutate": "mutating", "validate": "validating"}[path]
        authority = self._layout.cluster_authority.pair.certificate.read_bytes()
        url = f"https://127.0.0.1:{self._server.server_port}/{path}"
        webhook = {
            "name": f"{path}.kuberay-tpu-webhook.google.com",
            "clientConfig": {"url": url, "caBundle": base64.b64encode(authority).decode()},
            "rules": [{"apiGroups": groups, "apiVersions": ["v1"], "resources": [resource], "operations": operations}],
            "objectSelector": {"matchLabels": labels},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 5,
        }
        return {"metadata": {"name": f"kuberay-tpu-{kind}-webhook"}, "webhooks": [webhook]}


# A worker group that the webhook refuses: 4 chips of 16 on one host.
_PROBE: Json = {
    "headGroupSpec": {"template": {"spec": {"containers": [{"name": "head"}]}}},
    "workerGroupSpecs": [
        {
            "groupName": "tpu",
            "numOfHosts": 1,
            "template": {
                "spec": {
                    "nodeSelector": {"cloud.google.com/gke-tpu-topology": "4x4"},
                    "containers": [{"name": "worker", "resources": {"limits": {"google.com/tpu": "4"}}}],
                }
            },
        }
    ],
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, broken: set[str], *arguments: Any) -> None:
        self._broken = broken
        super().__init__(*arguments)

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if any(self.path.startswith(path) for path in self._broken):
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"out of order\n")
        request = review["request"]
        try:
            answer = _mutated(request["object"]) if self.path.startswith("/mutate") else _validated(request["object"])
        except WebhookFailureError as failure:
            return self._send(HTTPStatus.FORBIDDEN, f"{failure}\n".encode())
        review["response"] = {"uid": request["uid"], **answer}
        self._send(HTTPStatus.OK, json.dumps(review).encode())

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _mutated(pod: Json) -> Json:
    patch = patches(pod)
    encoded = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"allowed": True, **({"patchType": "JSONPatch", "patch": encoded} if patch else {})}


def _validated(cluster: Json) -> Json:
    message = refusal(cluster)
    return {"allowed": message is None, "status": {"message": message or "", "status": "Failure" if message else "Success"}}


@contextmanager
def running_tpu_webhook(layout: Layout, api: Api) -> Iterator[TpuWebhook]:
    """Registered from the start; `unregister` makes it a cluster that lacks it."""
    webhook = TpuWebhook(layout, api)
    try:
        webhook.register()
        yield webhook
    finally:
        webhook.close()
