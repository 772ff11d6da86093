"""Add this project's rules to Ray's configuration of HAProxy. Pure: from text to text."""

import json
import re
from typing import NamedTuple

from runtime_env.haproxy import affinity

RAY = "2.60.0"
"""Version of Ray whose configuration is expected."""
CONNECTIONS, CONNECTION_RATE = 2048, 10_000
"""Limits of one address: connections open at once, half of what Ray lets HAProxy take, and connections opened in 10 s."""

_JSON = "content-type application/json"
_RETRY = "hdr Retry-After 30"
_SECTIONS = ("global", "defaults", "frontend http_frontend", "backend default_backend")
_FALLBACK = r"^( *server SERVE_PROXY_ACTOR-fallback-\S+) \S+:\d+"
_MAX_HEADERS = 1000
"""Number of headers; HAProxy's default is 101. The guard limits their total size."""
_OPEN_BIND = r"^( *bind )\*?:(\d+)"
_OWN_ERRORS = {
    408: ("The request did not arrive in time.", "invalid_request_error"),
    500: ("The server could not answer.", "server_error"),
    **dict.fromkeys((502, 503, 504), ("The model did not answer. Try again later.", "service_unavailable_error")),
}
"""Bodies of HAProxy's own answers; Ray turns the last three into a 500 in plain text. For a request that it cannot parse,
HAProxy returns HTML, whatever one configures (`http_err_msgs` of its `mux_h1.c`)."""
_ID = "^[A-Za-z0-9._-]{1,64}$"
"""Pattern of a request's id, the same as the guard's."""


_DISCONNECTS = "http-request set-header x-request-disconnect-disabled ?1"
"""Leaves clients that go away to the app alone. Serve would cancel the app's task too: where that comes first, vLLM 0.29 loses
its own task (`with_cancellation` starts tasks that its cancellation does not reach), and the engine works for no client."""


class Settings(NamedTuple):
    """Settings from the environment."""

    unavailable_port: str
    """HAPROXY_UNAVAILABLE_PORT, on loopback: it answers where an app has no replica."""
    bind_host: str
    """HAPROXY_BIND_HOST: the address of statistics and metrics, which Ray binds to all interfaces, as does `*`."""
    tls_pem: str | None
    """HAPROXY_TLS_PEM: a file with a certificate (chain) and its key, for HTTPS beside the plain port."""
    tls_bind: str | None
    """HAPROXY_TLS_BIND: HOST:PORT for HTTPS, such as 0.0.0.0:8443."""
    logs: bool
    """True if HAPROXY_LOG can be written; else lines go where Ray sends them, a syslog."""
    connections: int = CONNECTIONS
    """HAPROXY_CONNECTIONS_PER_ADDRESS: maximum that one address may have open; 0 for no limit."""
    connection_rate: int = CONNECTION_RATE
    """HAPROXY_CONNECTION_RATE_PER_ADDRESS: maximum that it may open in 10 s; 0 for no limit."""


class UnexpectedConfigError(Exception):
    """Ray's configuration lacks a line that a rule belongs to; the message names it."""


def edited(config: str, settings: Settings) -> str:
    """The whole configuration that HAProxy is to run with. Raises `UnexpectedConfigError`."""
    lines = config.splitlines()
    _check(lines)
    knows_apps = re.search("^ *use_backend", config, re.MULTILINE)
    choice = affinity.is_chosen(config)
    added = {
        "global": [f"tune.http.maxhdr {_MAX_HEADERS}"],
        "defaults": _defaults(),
        "frontend http_frontend": [
            *(_tls(settings) + _limits(settings) + _log(settings) + _ids() + _refusals()),
            *(affinity.find_conversation() if choice else []),
            _DISCONNECTS,
        ],
        # Just started, and without apps yet: Ray's own answer to every path is 404, in plain text.
        "backend default_backend": [f"http-request {_not_found() if knows_apps else _unavailable()}"],
    }
    edited_lines: list[str] = []
    for line in affinity.balanced(lines) if choice else lines:
        if not re.match(" *errorfile ", line):
            edited_lines += [_readdressed(line, settings), *added.get(line.rstrip(), [])]
    return "\n".join(edited_lines + _frontend_unavailable(settings)) + "\n"


def _check(lines: list[str]) -> None:
    expected = {re.escape(line): line for line in _SECTIONS}
    expected |= {" *balance .*": "balance ALGORITHM", _OPEN_BIND: "bind :PORT, of statistics and metrics"}
    for pattern, name in expected.items():
        if not any(re.fullmatch(pattern, line.rstrip()) for line in lines):
            raise UnexpectedConfigError(
                f"the configuration that Ray wrote for HAProxy has no line {name!r}, as Ray {RAY}'s has: "
                "compare ray/serve/_private/haproxy_templates.py with runtime_env/haproxy/config.py"
            )
    fallbacks = [line for line in lines if "SERVE_PROXY_ACTOR-fallback" in line]
    if wrong := [line for line in fallbacks if not re.match(_FALLBACK, line)]:
        usual = "server SERVE_PROXY_ACTOR-fallback-NAME HOST:PORT"
        raise UnexpectedConfigError(f"Ray wrote {wrong[0].strip()!r} for HAProxy, where Ray {RAY} has {usual!r}")


def _defaults() -> list[str]:
    # A client's time for its headers, by default an hour: 4,096 half requests would keep everybody out.
    rules = ["timeout http-request 10s"]
    for status, (text, kind) in _OWN_ERRORS.items():
        retry = f" {_RETRY}" if status >= 502 else ""
        rules.append(f"http-error status {status} {_JSON}{retry} string '{_error(text, kind, status)}'")
    return rules


def _readdressed(line: str, settings: Settings) -> str:
    # Where an app has no replica, Ray sends requests to a proxy that keeps them waiting, however long it takes.
    line = re.sub(_FALLBACK, rf"\g<1> 127.0.0.1:{settings.unavailable_port}", line)
    return re.sub(_OPEN_BIND, rf"\g<1>{settings.bind_host}:\g<2>", line)


def _tls(settings: Settings) -> list[str]:
    if not settings.tls_pem:
        return []
    # The chat's cookie is Secure then. On the plain port a proxy in front may say the same; a client that lies harms itself.
    forwarded = "http-request set-header x-forwarded-proto https if { ssl_fc }"
    return [f"bind {settings.tls_bind} ssl crt {settings.tls_pem} ssl-min-ver TLSv1.2 alpn h2,http/1.1", forwarded]


def _limits(settings: Settings) -> list[str]:
    """Limit the connections of one address. Those beyond are closed before they send anything, or they would hold a place."""
    rules = ["stick-table type ipv6 size 100k expire 60s store conn_cur,conn_rate(10s)", "tcp-request connection track-sc0 src"]
    for counter, limit in (("conn_cur", settings.connections), ("conn_rate", settings.connection_rate)):
        if limit:
            rules.append(f"tcp-request connection reject if {{ sc0_{counter} gt {limit} }}")
    return rules


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
    """Give each request one id, x-request-id: the client's own if it is valid, else a new one. All logs use it."""
    is_valid = f"{{ req.fhdr_cnt(x-request-id) 1 }} {{ req.fhdr(x-request-id) -m reg {_ID} }}"
    return [
        "unique-id-format %[uuid]",
        f"http-request set-header x-request-id %[unique-id] unless {is_valid}",
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


def _not_found() -> str:
    return f"return status 404 {_JSON} string '{_error('No app of this server has this path.', 'invalid_request_error', 404)}'"


def _unavailable() -> str:
    text = "The model is not available now: it is starting, or its slice is not whole. Try again later."
    return f"return status 503 {_JSON} {_RETRY} string '{_error(text, 'service_unavailable_error', 503)}'"


def _error(message: str, kind: str, code: int | str) -> str:
    """Error body in OpenAI form. It stands between single quotes, so it must contain none."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}, separators=(",", ":"))
