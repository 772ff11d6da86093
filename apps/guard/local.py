"""A server without keys that only this machine reaches: for its programs, not for the web pages that its browser shows."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from apps.common.loopback import is_loopback
from apps.guard.answers import Refusal


def check(headers: Mapping[bytes, bytes]) -> None:
    """Raise `Refusal` 403 for a request that a web page of elsewhere has sent.

    A page can send some without asking, though it cannot read the answer; one whose name was made to mean this machine (DNS
    rebinding) can do both, but its browser tells that name.
    """
    for header, address in ((b"host", b"//" + headers.get(b"host", b"localhost")), (b"origin", headers.get(b"origin"))):
        if address is not None and not _is_here(address):
            message = (
                f"The header {header.decode()} names another place than this machine, which is all that a server without keys "
                "answers: use 127.0.0.1 or localhost, or give the server keys (guard: {keys_files: [...]})."
            )
            raise Refusal(403, message, "forbidden_origin")


def _is_here(address: bytes) -> bool:
    try:
        return is_loopback(urlsplit(address.decode("ascii")).hostname or "")
    except ValueError:
        return False
