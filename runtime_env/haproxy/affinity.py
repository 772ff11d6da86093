"""Rules by which requests of one conversation, or of one long prompt, go to the same replica, which has their tokens in its
prefix cache. Pure: from Ray's configuration to lines.

The conversation is known by what does not change from turn to turn: a session header, else the first message that is not the
system's, else the beginning of the prompt. The hash is consistent and its load is bounded: a replica takes at most so much of
the average, then the next one on the ring does. With one replica there are no rules, and no request waits for its body here;
nor are there any where Ray was told of another way (RAY_SERVE_HAPROXY_BALANCE_ALGORITHM).
"""

import re
import zlib

BALANCE = "balance leastconn"
"""Ray's own line, unless it was told of another."""
_REPLICA = re.compile(r"^ *server (SERVE_REPLICA_\S+) .*\bcheck\b")
_MAX_LOAD = 150
"""Requests of a replica in percent of the average; `python -m tests.perf.routing` compares."""
_KEY = "txn.conversation"
_BEGINNING = 1024
"""Bytes of a text that tell it from others."""
_BODY_S = 30
"""Time for a body, in seconds: the guard's `Bounds.body_s`."""
_GENERATES = "METH_POST { path_end /completions }"
_SYSTEM = "{ req.body,json_query('$.messages[0].role') -m str system developer }"
_TEXTS = (
    ("$.prompt", ""),
    ("$.messages[1].content", f" {_SYSTEM}"),
    ("$.messages[1].content[0].text", f" {_SYSTEM}"),
    ("$.messages[0].content", f" !{_SYSTEM}"),
    ("$.messages[0].content[0].text", f" !{_SYSTEM}"),
)
"""(JSON path, condition) of the texts that are tried in this order. Beyond HAProxy's buffer nothing is found."""


def is_chosen(config: str) -> bool:
    """Whether an app has a choice of replicas, and nobody has chosen another way."""
    if not re.search(f"^ *{BALANCE}$", config, re.MULTILINE):
        return False
    backends = re.split("^backend ", config, flags=re.MULTILINE)
    return any(sum(bool(_REPLICA.match(line)) for line in backend.splitlines()) > 1 for backend in backends)


def balance() -> list[str]:
    """Lines in place of Ray's `BALANCE`."""
    return [f"balance hash var({_KEY})", "hash-type consistent wt6 avalanche", f"hash-balance-factor {_MAX_LOAD}"]


def find_conversation() -> list[str]:
    """Rules of the frontend."""
    unknown = f"if {_GENERATES} !{{ var({_KEY}) -m found }}"
    rules = [
        f"http-request set-var({_KEY}) req.hdr(x-session-id) if {_GENERATES}",
        f"http-request wait-for-body time {_BODY_S}s {unknown}",
    ]
    rules += [
        f"http-request set-var({_KEY}) req.body,json_query('{path}'),bytes(0,{_BEGINNING}) {unknown}{condition}"
        for path, condition in _TEXTS
    ]
    return [*rules, f"http-request set-var({_KEY}) req.body,bytes(0,{_BEGINNING}) {unknown}"]


def with_id(line: str) -> str:
    """A replica's line with an id from its name: its place on the ring is the same in every HAProxy, and after changes."""
    if match := _REPLICA.match(line):
        return f"{line} id {zlib.crc32(match[1].encode()) % (2**31 - 1) + 1}"
    return line
