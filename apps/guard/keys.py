"""Named keys as they are kept: ids, salted scrypt hashes and what each key may do. Pure: no file, no clock, no randomness.

A key's text is `rts_ID_SECRET`. The id finds the entry, so one hash is computed however many keys there are; the secret is
never kept. Several entries may have one name: while a rotated key runs out, its successor works as well.
"""

import hashlib
import hmac
import json
import re
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from apps.common.errors import UserError
from apps.guard.settings import Limits

SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1
"""36 ms and 16 MiB on this project's test machine; a secret has 192 random bits, so this only has to cost something."""
_MEMORY_BYTES = 64 * 1024 * 1024  # what OpenSSL may take; it needs 128 * N * r
_TEXT = re.compile(rb"rts_([0-9a-f]{12})_([0-9a-f]{48})")
NAME = r"[a-z0-9][a-z0-9._-]{0,62}"


class Entry(BaseModel):
    """One key of the file, under its id. Times are UTC, as `2026-01-31T00:00:00Z`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAME}$")
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None
    disabled: bool = False
    admin: bool = False
    models: list[str] | None = None
    """None: every model."""
    weight: float = Field(default=1, gt=0, le=1000)
    limits: Limits = Limits()

    def usable(self, now: datetime) -> bool:
        return not self.disabled and (self.expires is None or now < self.expires)

    def matches(self, secret: bytes) -> bool:
        """Compute the hash and compare, in a time that does not depend on the secret. Slow on purpose."""
        return hmac.compare_digest(bytes.fromhex(self.hash), scrypt(secret, bytes.fromhex(self.salt)))


Keys = dict[str, Entry]
"""A file's keys by their ids."""


def by_name(keys: Keys, name: str) -> Keys:
    return {id: entry for id, entry in keys.items() if entry.name == name}


def next_to_expire(keys: Keys, now: datetime) -> datetime | None:
    """When the first name is left without a usable key; None if none ever is."""
    last: dict[str, datetime | None] = {}
    for entry in keys.values():
        if entry.usable(now):
            known = last.get(entry.name, entry.expires)
            last[entry.name] = max(known, entry.expires) if known and entry.expires else None
    return min((moment for moment in last.values() if moment), default=None)


def parse_keys(text: bytes) -> Keys:
    """Keys from a file's text.

    Raises:
        UserError: the text is not a keys file; says where, and never repeats the text.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("is not JSON") from None
    is_table = isinstance(content, dict) and content.get("version") == 1 and isinstance(content.get("keys"), dict)
    if not is_table or len(content) != 2:
        raise UserError("is not a keys file of version 1")
    return {id: _entry(id, value) for id, value in content["keys"].items()}


def _entry(id: str, value: object) -> Entry:
    # One at a time: of a long file in one piece, a server's other threads would have to wait for the last.
    if not re.fullmatch("[0-9a-f]{12}", id):
        raise UserError(f"keys.{id[:40]}: is not a key's id: make keys with scripts/keys.py")
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, ('keys', id, *first['loc'])))}: {first['msg']}") from None


def keys_text(keys: Keys) -> str:
    """The text of a keys file."""
    entries = {id: entry.model_dump(mode="json", exclude_unset=True) for id, entry in keys.items()}
    return json.dumps({"version": 1, "keys": entries}, indent=1) + "\n"


def split_key(text: bytes) -> tuple[str, bytes] | None:
    """(id, secret) of a key's text; None for what has not a key's form."""
    match = _TEXT.fullmatch(text)
    return (match[1].decode(), match[2]) if match else None


def join_key(id: str, secret: bytes) -> str:
    return f"rts_{id}_{secret.decode()}"


def scrypt(secret: bytes, salt: bytes) -> bytes:
    """Compute a secret's hash; the interpreter lock is released meanwhile."""
    return hashlib.scrypt(secret, salt=salt, n=SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_MEMORY_BYTES, dklen=32)
