"""The Kubernetes API server. The only module that imports the `kubernetes` client.

Asks again, for a while, where a request met a busy server or a broken connection; every request here may be made twice.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.util.retry import Retry

from apps.common.errors import OperationError, UserError
from kuberay.names import MANAGER
from kuberay.objects import KINDS, Manifest, title

Query = Sequence[tuple[str, str]]
_JSON = "application/json"
_TIMEOUT_S = 30
_RETRIES = 6  # with pauses of 0.5, 1, 2, ... s: half a minute, an API server's restart
_BUSY = (429, 502, 503, 504)
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # after an error inside the API server
_UNKNOWN_FIELD = b"typed patch object"  # of server-side apply, which answers 500 to a field that does not exist
_NO_SUCH_KIND = "the cluster has no such kind of object: install what brings it, or choose in the spec what does without"
_LOG_IN = "the cluster does not know you (any more): `gcloud auth login` and `gcloud container clusters get-credentials`"
_WRITES = 4  # attempts at an object that others write at the same moment


class ApiError(OperationError):
    """The API server refused a request. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def about(self, name: str) -> "ApiError":
        """The same error, with the object that it is about in its message."""
        return type(self)(f"{name}: {self}", self.status)


class ForbiddenError(ApiError):
    """A request that this user may not make."""


class ConflictError(ApiError):
    """A field that another manager has set differs from what is applied."""


@dataclass(frozen=True)
class Api:
    """One cluster, as one user; every method raises `ApiError` (or `ForbiddenError`) where the server refuses.

    `context` is for people.
    """

    _client: client.ApiClient
    context: str
    _log_in: Callable[[], object] = lambda: None
    """Reads the credentials again: a token's file may have a new one, a plugin can be asked."""

    def get(self, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """One object, or None if there is none."""
        return self._json_or_none("GET", KINDS[kind].path(namespace, name))

    def objects(self, kind: str, namespace: str | None = None, selector: str = "", fields: str = "") -> list[Manifest]:
        """Objects of a kind, in one namespace or in all, by labels (`a=b,c`) and fields (`involvedObject.name=x`).

        A kind that the server does not have is an empty list.
        """
        query = [("labelSelector", selector), ("fieldSelector", fields)]
        answer = self._json_or_none("GET", KINDS[kind].path(namespace), [pair for pair in query if pair[1]])
        return list((answer or {}).get("items") or [])

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> Manifest:
        """Server-side apply: the object as it is (or would be) afterwards.

        Raises `ConflictError` for a field that somebody else manages. The messages name the object, and such managers.
        """
        metadata = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(metadata.get("namespace"), metadata["name"])
        query = [("fieldManager", MANAGER), ("fieldValidation", "Strict"), ("force", str(force).lower())]
        query += [("dryRun", "All")] if dry_run else []
        for left in reversed(range(_WRITES)):
            try:
                return self._json("PATCH", path, query, manifest, "application/apply-patch+yaml")
            except ApiError as error:
                written_meanwhile = error.status == 409 and not isinstance(error, ConflictError)
                if not (written_meanwhile and left):
                    raise error.about(title(manifest)) from error
        raise AssertionError("the last attempt returns or raises")

    def patch(self, kind: str, name: str, namespace: str, change: Manifest) -> None:
        """JSON merge patch of one object."""
        query = [("fieldManager", f"{MANAGER}-patch")]
        self._json("PATCH", KINDS[kind].path(namespace, name), query, change, "application/merge-patch+json")

    def create(self, manifest: Manifest) -> Manifest:
        """Make an object that must not be there yet."""
        return self._json("POST", KINDS[manifest["kind"]].path(manifest["metadata"].get("namespace")), body=manifest)

    def delete(self, kind: str, name: str, namespace: str | None) -> None:
        """Delete an object, if it is there, and what it owns, before it. It may take a while to be gone."""
        self._json_or_none("DELETE", KINDS[kind].path(namespace, name), body={"propagationPolicy": "Foreground"})

    def may(self, verb: str, kind: str, namespace: str | None, subresource: str = "") -> bool:
        """Whether this user may do that (`kubectl auth can-i`)."""
        wanted = KINDS[kind]
        attributes = {"verb": verb, "group": wanted.group, "resource": wanted.plural, "subresource": subresource}
        attributes |= {"namespace": namespace} if namespace and wanted.namespaced else {}
        review: Manifest = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        answer = self.create({**review, "metadata": {}, "spec": {"resourceAttributes": attributes}})
        return bool(answer["status"]["allowed"])

    def logs(self, pod: str, namespace: str, container: str, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Lines of a container's log, as they come."""
        query = [("container", container), ("follow", str(follow).lower())]
        query += [("tailLines", str(tail))] if tail is not None else []
        answer = self._request("GET", KINDS["Pod"].path(namespace, pod, "log"), query, timeout=None if follow else _TIMEOUT_S)
        for line in answer.response:
            yield line.decode(errors="replace").rstrip("\n")

    def server_version(self) -> str:
        """The server's version, such as `v1.35.2-gke.1842000`."""
        return str(self._json("GET", "/version")["gitVersion"])

    def port_forward(self, pod: str, namespace: str, port: int) -> Any:
        """A socket to a port of a pod."""
        from kubernetes.stream import portforward

        own = client.ApiClient(self._client.configuration)  # the call changes its client, so it must not be shared
        forward = client.CoreV1Api(own).connect_get_namespaced_pod_portforward
        with _explained(self.context):
            return portforward(forward, pod, namespace, ports=str(port)).socket(port)

    def custom_objects(self) -> client.CustomObjectsApi:
        """The official client's own interface to this cluster, for KubeRay's client, which is built on it."""
        return client.CustomObjectsApi(self._client)

    def _json(self, method: str, path: str, query: Query = (), body: Any = None, content_type: str = _JSON) -> Any:
        return json.loads(self._request(method, path, query, body, content_type).read())

    def _json_or_none(self, method: str, path: str, query: Query = (), body: Any = None) -> Any | None:
        """What `_json` returns, or None for what is not there."""
        try:
            return self._json(method, path, query, body)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _request(
        self,
        method: str,
        path: str,
        query: Query,
        body: Any = None,
        content_type: str = _JSON,
        timeout: float | None = _TIMEOUT_S,
    ) -> Any:
        headers = {"Accept": _JSON, "Content-Type": content_type}
        # Server-side apply takes YAML, of which JSON is a part; as text, it goes through the client unchanged.
        sent = json.dumps(body) if content_type.endswith("yaml") else body
        unknown = False
        for pause_s in (*_PAUSES_S, None):
            with _explained(self.context):
                request = self._client.param_serialize(
                    method, path, query_params=list(query), header_params=headers, body=sent, auth_settings=["BearerToken"]
                )
                answer = self._client.call_api(*request, _request_timeout=timeout)
            if answer.status < 400:
                break
            message = answer.read()
            if answer.status == 401 and not unknown and pause_s is not None:
                unknown = True
                self._log_in()
                continue
            if answer.status != 500 or _UNKNOWN_FIELD in message or pause_s is None:
                raise _error(answer.status, message)
            time.sleep(pause_s)
        return answer


def connect(kubeconfig: str | None = None, context: str | None = None) -> Api:
    """The cluster of a kubeconfig file (default: KUBECONFIG or ~/.kube/config), or of the pod that this runs in.

    Nothing is contacted yet. Raises `UserError` where there is no such file or context.
    """
    settings = client.Configuration()
    try:
        name = _load(settings, kubeconfig, context)
    except (ConfigException, OSError) as error:
        raise UserError(
            f"no Kubernetes cluster: {' '.join(str(error).split()).rstrip('.')}. Give --kubeconfig or --context, or run "
            "`gcloud container clusters get-credentials` (scripts/gke.py up ends with it)"
        ) from None
    pauses: dict[str, Any] = {"total": _RETRIES, "backoff_factor": 0.5, "backoff_jitter": 0.2}
    settings.retries = Retry(**pauses, status_forcelist=_BUSY, allowed_methods=None, raise_on_status=False)
    return Api(client.ApiClient(settings), name, lambda: _load(settings, kubeconfig, context))


def _load(settings: client.Configuration, kubeconfig: str | None, context: str | None) -> str:
    try:
        config.load_kube_config(kubeconfig, context, settings, persist_config=False)
        _, active = config.list_kube_config_contexts(kubeconfig)
        return context or str(active["name"])
    except ConfigException:
        if kubeconfig or context:
            raise
        config.load_incluster_config(settings)
        return "the cluster of this pod"


def _error(status: int, body: bytes) -> ApiError:
    try:
        status_object = json.loads(body)
        message, reason = str(status_object.get("message") or ""), str(status_object.get("reason") or "")
        causes = [cause.get("reason") for cause in (status_object.get("details") or {}).get("causes") or []]
    except ValueError:
        message, reason, causes = _NO_SUCH_KIND if status == 404 else body.decode(errors="replace").strip()[:300], "", []
    if status == 401:
        message = f"{message or 'Unauthorized'}: {_LOG_IN}"
    if "FieldManagerConflict" in causes:
        return ConflictError(message, status)
    kind = ForbiddenError if status == 403 and reason == "Forbidden" else ApiError
    return kind(message or f"HTTP {status}", status)


@contextmanager
def _explained(context: str) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _error(error.status or 0, (error.body or error.reason or "").encode()) from error
    except urllib3.exceptions.HTTPError as error:
        raise OperationError(f"the API server of {context} does not answer: {error}") from error
