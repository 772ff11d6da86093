"""The API server's JSON over HTTP, for what emulates a part of the cluster: paths and dicts, no client library."""

import base64
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

Json = dict[str, Any]
_MERGE = {"content-type": "application/merge-patch+json"}


def client_context(kubeconfig: Json) -> ssl.SSLContext:
    """TLS as the user of a kubeconfig (its content)."""
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # `ssl` reads client certificates from files only
        for key in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[key]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


class Api:
    """Acts as the user of a kubeconfig. Errors are `httpx.HTTPStatusError`, or another `httpx.HTTPError` without an answer."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        server, context = config["clusters"][0]["cluster"]["server"], client_context(config)
        self.client = httpx.Client(base_url=server, verify=context, timeout=60, trust_env=False)

    def get(self, path: str, **query: Any) -> Json:
        return self._json(self._read(path, query))

    def find(self, path: str) -> Json | None:
        """None where there is no such object."""
        response = self._read(path, {})
        return None if response.status_code == httpx.codes.NOT_FOUND else self._json(response)

    def items(self, path: str, **query: Any) -> list[Json]:
        return list(self.get(path, **query)["items"] or [])

    def create(self, path: str, body: Json) -> Json:
        return self._json(self.client.post(path, json=body))

    def merge(self, path: str, change: Json) -> Json:
        """A merge patch: lists are replaced as a whole."""
        return self._json(self.client.patch(path, content=json.dumps(change), headers=_MERGE))

    def delete(self, path: str, **options: Any) -> None:
        """`options` are those of a DeleteOptions. What is not there need not be deleted."""
        response = self.client.request("DELETE", path, json=options)
        if response.status_code != httpx.codes.NOT_FOUND:
            self._json(response)

    def watch(self, path: str, version: str, seconds: int = 60) -> Iterator[tuple[str, Json]]:
        """Changes after a resource version, until the server ends the watch. Raises `httpx.HTTPError` when it breaks."""
        query: Mapping[str, Any] = {"watch": "true", "resourceVersion": version, "timeoutSeconds": seconds}
        with self.client.stream("GET", path, params=query, timeout=httpx.Timeout(20, read=seconds + 20)) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                event = json.loads(line)
                yield event["type"], event["object"]

    def close(self) -> None:
        self.client.close()

    def _read(self, path: str, query: Mapping[str, Any]) -> httpx.Response:
        try:
            return self.client.get(path, params=query)
        except httpx.ReadError:  # a connection of the pool that ended between two requests; threads share it
            return self.client.get(path, params=query)

    @staticmethod
    def _json(response: httpx.Response) -> Json:
        if response.is_error:
            message = (
                response.json().get("message", "") if "json" in response.headers.get("content-type", "") else response.text
            )
            raise httpx.HTTPStatusError(f"{response.status_code}: {message}", request=response.request, response=response)
        return dict(response.json())


def wait_for(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """What the condition gave as soon as that was true; an assertion error with `what` if it is not within so many seconds."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.05)
    return result
