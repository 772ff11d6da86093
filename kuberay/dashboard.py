"""Ray's dashboard, as far as deployments go: which apps Serve has, and which Ray version answers. Needs a way to its port."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from apps.common.errors import OperationError
from kuberay import names
from kuberay.api import Api, ForbiddenError
from kuberay.forward import forwarding
from kuberay.spec import Spec
from kuberay.state import State

_TIMEOUT_S = 20


@dataclass(frozen=True)
class Dashboard:
    """The dashboard at a URL of this machine. `token` is the cluster's, or None where it has none; it is never printed."""

    url: str
    token: str | None

    def __repr__(self) -> str:
        return f"Dashboard({self.url!r})"

    def environment(self) -> dict[str, str]:
        """What Ray's own commands need to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.token else {"RAY_AUTH_MODE": "disabled"}

    def serve(self) -> dict[str, Any]:
        """Serve's state: `applications` by name, `http_options`. Raises `OperationError`."""
        return self._get("/api/serve/applications/")

    def version(self) -> str:
        """Ray's version. Raises `OperationError`."""
        return str(self._get("/api/version")["ray_version"])

    def text(self, path: str) -> str:
        """What the dashboard answers to a GET, as text. Raises `OperationError`."""
        return self._ask(path).text

    def _get(self, path: str) -> dict[str, Any]:
        try:
            return dict(self._ask(path).json())
        except ValueError as error:
            raise OperationError(f"{self.url}{path} is no page of Ray's dashboard: its answer is no JSON") from error

    def _ask(self, path: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.get(self.url + path, headers=headers, timeout=_TIMEOUT_S)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            said = error.response.text.strip()[:300]
            raise OperationError(f"Ray's dashboard answers {error.response.status_code} to {path}: {said}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OperationError(
                f"Ray's dashboard does not answer ({error or type(error).__name__}): is the head ready?"
            ) from error
        return answer


@contextmanager
def dashboard(api: Api, spec: Spec, state: State) -> Iterator[Dashboard]:
    """The dashboard of a cluster, forwarded to this machine inside the block.

    Raises:
        OperationError: there is no head, or its token cannot be read.
    """
    if state.head is None:
        raise OperationError("there is no head to ask: scripts/cluster.py wait says why")
    secret = token(api, spec, state)
    with forwarding(api, state.head["metadata"]["name"], spec.namespace, names.PORTS["dashboard"]) as port:
        yield Dashboard(f"http://127.0.0.1:{port}", secret)


def token(api: Api, spec: Spec, state: State) -> str | None:
    """The cluster's token, or None where it has none.

    Raises:
        OperationError: it is not there yet, or this user may not read it.
    """
    if spec.auth == "none":
        return None
    assert state.cluster
    name = secret_name(spec, state.cluster["metadata"]["name"])
    try:
        secret = api.get("Secret", name, spec.namespace)
    except ForbiddenError as error:
        raise OperationError(f"you may not read the cluster's token (Secret/{name}): {error}") from error
    if secret is None or names.TOKEN_KEY not in secret.get("data", {}):
        raise OperationError(f"Secret/{name} with the cluster's token is not there: KubeRay makes it with the cluster")
    return base64.b64decode(secret["data"][names.TOKEN_KEY]).decode()


def secret_name(spec: Spec, cluster: str) -> str:
    """Where the token is: KubeRay names it after the cluster; a RayService's has a name of its own, so that it can be known."""
    return names.service_token_secret(spec.name) if spec.kind == "RayService" else names.token_secret(cluster)
