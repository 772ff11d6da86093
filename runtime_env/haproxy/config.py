"""Ray's configuration of HAProxy with this project's rules in it. Pure: from text to text."""

import json
import re
from typing import NamedTuple

_JSON = "content-type application/json"
_ID = "^[A-Za-z0-9._-]{1,64}$"
"""Of a request: the guard's rule too."""


_DISCONNECTS = "http-request set-header x-request-disconnect-disabled ?1"
"""Leaves clients that go away to the app alone. Serve would cancel the app's task too: where that comes first, vLLM 0.29 loses
its own task (`with_cancellation` starts tasks that its cancellation does not reach), and the engine works for nobody."""


class Settings(NamedTuple):
    """What the environment says."""

    unavailable_port: str
    """On loopback: the answer where an app has no replica."""
    bind_host: str
    """HAPROXY_BIND_HOST: the address of statistics and metrics, which Ray binds to all interfaces, as does `*`."""
    tls_pem: str | None
    """HAPROXY_TLS_PEM: a file with a certificate (chain) and its key, for HTTPS beside the plain port."""
    tls_bind: str | None
    """HAPROXY_TLS_BIND: where, such as 0.0.0.0:8443."""
    logs: bool
    """HAPROXY_LOG can be written: else lines go where Ray sends them, a syslog."""


def edited(config: str, settings: Settings) -> str:
    """The whole configuration that HAProxy is to run with."""
    knows_apps = re.search("^ *use_backend", config, re.MULTILINE)
    lines: list[str] = []
    for line in config.splitlines():
        lines.append(_readdressed(line, settings))
        if line.startswith("defaults"):
            # A client's time for its headers, by default an hour: 4,096 half requests would keep everybody out.
            lines.append("timeout http-request 10s")
        elif line.startswith("frontend http_frontend"):
            lines += _tls(settings) + _log(settings) + _ids() + _refusals() + [_DISCONNECTS]
        elif line.startswith("backend default_backend") and not knows_apps:
            # Just started, and told of no app yet: Ray's own answer to every path is 404.
            lines.append(f"http-request {_unavailable()}")
    return "\n".join(lines + _frontend_unavailable(settings)) + "\n"


def _readdressed(line: str, settings: Settings) -> str:
    # Where an app has no replica, Ray sends requests to a proxy that keeps them waiting, however long it takes.
    line = re.sub(r"^( *server SERVE_PROXY_ACTOR-fallback-\S+) \S+", rf"\g<1> 127.0.0.1:{settings.unavailable_port}", line)
    return re.sub(r"^( *bind )\*?:(\d+)", rf"\g<1>{settings.bind_host}:\g<2>", line)


def _tls(settings: Settings) -> list[str]:
    if not settings.tls_pem:
        return []
    return [f"bind {settings.tls_bind} ssl crt {settings.tls_pem} ssl-min-ver TLSv1.2 alpn h2,http/1.1"]


def _log(settings: Settings) -> list[str]:
    """A line of JSON for each request, and for a connection that breaks before one (TLS)."""
    time = '"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]"'
    request = (
        f'{{{time},"id":"%[var(txn.id)]","client":"%ci","method":"%HM","path":"%[var(txn.path),json(utf8s)]","status":%ST,'
        '"server":"%s","queued_ms":%Tw,"first_byte_ms":%Tr,"duration_ms":%Ta,"bytes":%B,"ended":"%ts"}'
    )
    broken = f'{{{time},"client":"%ci","error":"%[fc_err_str,json(utf8s)]","tls_error":"%[ssl_fc_err_str,json(utf8s)]"}}'
    target = ["log stdout format raw local0 info"] if settings.logs else []
    return [*target, f"log-format '{request}'", f"error-log-format '{broken}'"]


def _ids() -> list[str]:
    """One id for each request, x-request-id: the client's own if it is one, else a new one. All that log it use that."""
    is_one = f"{{ req.fhdr_cnt(x-request-id) 1 }} {{ req.fhdr(x-request-id) -m reg {_ID} }}"
    return [
        "unique-id-format %[uuid]",
        f"http-request set-header x-request-id %[unique-id] unless {is_one}",
        "http-request set-var(txn.id) req.fhdr(x-request-id)",
        "http-request set-var(txn.path) path",
        "http-after-response set-header x-request-id %[var(txn.id)] unless { res.hdr(x-request-id) -m found }",
    ]


def _refusals() -> list[str]:
    header = _error("A header of the request is not in ASCII.", "invalid_request_error", 400)
    busy = _error("The model is busy. Try again later.", "requests", "rate_limit_exceeded")
    return [
        # Serve's replicas fail to decode them (500).
        f"http-request return status 400 {_JSON} string '{header}' if {{ req.hdrs -m reg '[^[:cntrl:] -~]' }}",
        # Serve's own refusal for want of a place is plain text.
        f"http-response return status 429 {_JSON} hdr Retry-After 5 string '{busy}'"
        " if { status 429 } { res.hdr(content-type) -m beg text/plain }",
    ]


def _frontend_unavailable(settings: Settings) -> list[str]:
    return [
        "frontend unavailable",
        f"bind 127.0.0.1:{settings.unavailable_port}",
        "mode http",
        "no log",
        "http-request return status 200 if { path -i /-/healthz }",
        f"http-request {_unavailable()}",
    ]


def _unavailable() -> str:
    text = "The model is not available now: it is starting, or its slice is not whole. Try again later."
    return f"return status 503 {_JSON} hdr Retry-After 30 string '{_error(text, 'service_unavailable_error', 503)}'"


def _error(message: str, kind: str, code: int | str) -> str:
    """In OpenAI form. It stands between single quotes, so it may have none."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}, separators=(",", ":"))
