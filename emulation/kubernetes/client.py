"""Kubeconfigs, and one question to an API server: does this path answer?"""

import base64
import http.client
import ssl
from pathlib import Path

import yaml

from emulation.kubernetes.pki import Pair

LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 5


def write_kubeconfig(path: Path, server: str, authority: Path, user: Pair) -> Path:
    """Write a kubeconfig that needs no other file; the certificate of the server at that URL is signed by `authority`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": _inline(authority)}}],
        "users": [
            {
                "name": "user",
                "user": {"client-certificate-data": _inline(user.certificate), "client-key-data": _inline(user.key)},
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user", "namespace": "default"}}],
        "current-context": "local",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def answers(port: int, path: str, authority: Path | None = None, user: Pair | None = None) -> bool:
    """True if a GET on loopback is answered with 200: over TLS with an authority, as that user with a pair."""
    connection: http.client.HTTPConnection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_S)
    if authority:
        context = ssl.create_default_context(cafile=str(authority))
        if user:
            context.load_cert_chain(user.certificate, user.key)
        connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
