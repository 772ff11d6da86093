"""Rules by which requests of one conversation, or of one long prompt, go to the same replica, which has their tokens in its
prefix cache. Pure: from Ray's configuration to lines.

The conversation is known by what does not change from turn to turn: a session header, else the first message that is not the
system's, else the beginning of the prompt. The hash is consistent and its load is bounded: a replica takes at most so much of
the average, then the next one on the ring does. With one replica there are no rules, and no request waits for its body here;
nor are there any where Ray was told of another way (RAY_SERVE_HAPROXY_BALANCE_ALGORITHM).
"""

import re
import zlib
from collections.abc import Iterable, Iterator

_BALANCE = "balance leastconn"
"""Ray's own line, unless it was told of another."""
_REPLICA = re.compile(r"^ *server (SERVE_REPLICA_\S+) .*\bcheck\b")
_MAX_LOAD = 150
"""Requests of a replica in percent of the average. HAProxy's manual (`hash-balance-factor`) calls 125 to 200 reasonable."""
_KEY = "txn.conversation"
_BEGINNING = 1024
"""Bytes of a text that tell it from others."""
_BODY_S = 30
"""Time for a body, in seconds: the default of the guard's `Bounds.body_s`."""
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
    if not re.search(f"^ *{_BALANCE}$", config, re.MULTILINE):
        return False
    backends = re.split("^backend ", config, flags=re.MULTILINE)
    return any(sum(bool(_REPLICA.match(line)) for line in backend.splitlines()) > 1 for backend in backends)


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


def balanced(lines: Iterable[str]) -> Iterator[str]:
    """Ray's lines with our way of choosing. A replica gets an id from its name, by which every HAProxy, and each later
    configuration, has it at the same place of the ring.
    """
    for line in lines:
        if line.strip() == _BALANCE:
            yield from (f"balance hash var({_KEY})", "hash-type consistent wt6 avalanche", f"hash-balance-factor {_MAX_LOAD}")
        elif match := _REPLICA.match(line):
            yield f"{line} id {zlib.crc32(match[1].encode()) % (2**31 - 1) + 1}"
        else:
            yield line
