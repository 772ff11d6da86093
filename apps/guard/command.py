"""`scripts/keys.py`: make, list, rotate and revoke the keys of a keys file. A key's text is given once, and kept nowhere."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.command_line import reports_errors

if TYPE_CHECKING:
    from apps.guard.keys import Entry, KeyTable

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "max_tokens", "context_tokens")


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code 0, 1 if the file cannot be written, 2 for bad input."""
    options = _parser().parse_args(argv)
    options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/keys.py",
        description="Keys of the API. The file holds only salted hashes; servers that use it see a change within two seconds.",
    )
    parser.add_argument(
        "--file", metavar="F", type=Path, required=True, help="the keys file; create makes it if it does not exist"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="make a key, and print it: it is not shown again")
    create.add_argument("name", metavar="NAME", type=_name)
    create.add_argument("--expires", metavar="WHEN", type=_when, help="30d, 12h, or a date such as 2027-01-31 (UTC)")
    create.add_argument("--models", metavar="ID", nargs="+", help="only these models (default: all)")
    create.add_argument("--weight", type=_weight, default=1.0, help="its share when the engine is full (default: %(default)g)")
    create.add_argument("--admin", action="store_true", help="may also use the routes in guard.admin_routes")
    for limit in _LIMITS:
        flag = "--" + limit.replace("_", "-")
        create.add_argument(flag, metavar="N", type=_positive, help="instead of the config's guard.limits")
    _add_out(create)
    create.set_defaults(run=_create)

    show = commands.add_parser("list", help="the keys, without their secrets")
    show.add_argument("--json", action="store_true", help="for machines")
    show.set_defaults(run=_list)

    rotate = commands.add_parser("rotate", help="make a successor with the same rights, and print it")
    rotate.add_argument("name", metavar="NAME", type=_name)
    rotate.add_argument(
        "--grace", metavar="TIME", type=_duration, default=timedelta(0), help="how long the old key still works, such as 24h"
    )
    _add_out(rotate)
    rotate.set_defaults(run=_rotate)

    revoke = commands.add_parser("revoke", help="remove every key of this name")
    revoke.add_argument("name", metavar="NAME", type=_name)
    revoke.set_defaults(run=_revoke)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write the key into a new file that only you can read, instead of printing it"
    )


def _create(options: argparse.Namespace) -> None:
    from apps.common.errors import UserError
    from apps.guard.keyfile import make_key, utc_now

    limits = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    settings: dict[str, object] = {"name": options.name, "weight": options.weight, "admin": options.admin, "limits": limits}
    settings |= {"expires": options.expires} if options.expires else {}
    settings |= {"models": options.models} if options.models else {}
    text, id, entry = make_key(settings, utc_now())

    def add(table: "KeyTable") -> "KeyTable":
        if table.by_name(options.name):
            raise UserError(f"{options.name!r} already exists: rotate or revoke it, or choose another name")
        return table.with_entry(id, entry)

    _change_and_hand_out(options, add, lambda: text)


def _rotate(options: argparse.Namespace) -> None:
    from apps.guard.keyfile import make_key, utc_now

    now = utc_now()
    until = now + options.grace
    made: list[str] = []

    def replace(table: "KeyTable") -> "KeyTable":
        old = _named(table, options.name)
        newest = max(old.values(), key=lambda entry: entry.created)
        kept = newest.model_dump(exclude={"salt", "hash", "created"}, exclude_unset=True)
        if newest.expires:
            kept["expires"] = now + (newest.expires - newest.created)  # as long a life as the old one had
        text, id, entry = make_key(kept, now)
        made.append(text)
        table = table.without(old)
        for old_id, old_entry in old.items():
            if options.grace and (old_entry.expires is None or old_entry.expires > now):
                last = until if old_entry.expires is None else min(until, old_entry.expires)
                table = table.with_entry(old_id, old_entry.model_copy(update={"expires": last}))
        return table.with_entry(id, entry)

    _change_and_hand_out(options, replace, lambda: made[0])


def _change_and_hand_out(
    options: argparse.Namespace, change: Callable[["KeyTable"], "KeyTable"], text: Callable[[], str]
) -> None:
    """Change the keys file, and give the new key to whoever asked; where it cannot be written, no key has changed."""
    from apps.guard.keyfile import change_keys, write_key

    def change_and_write(table: "KeyTable") -> "KeyTable":
        changed = change(table)
        if options.out:
            write_key(options.out, text())
        return changed

    change_keys(options.file, change_and_write)
    print(f"the key is in {options.out}" if options.out else text(), file=sys.stderr if options.out else sys.stdout)


def _revoke(options: argparse.Namespace) -> None:
    from apps.guard.keyfile import change_keys

    change_keys(options.file, lambda table: table.without(_named(table, options.name)))


def _list(options: argparse.Namespace) -> None:
    from apps.guard.keyfile import read_keys, utc_now

    now = utc_now()
    entries = sorted(read_keys(options.file).entries.items(), key=lambda item: (item[1].name, item[1].created))
    rows = [_plain(id, entry, now) for id, entry in entries]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        models = ",".join(row["models"]) if row["models"] else "all models"
        extra = [f"{name}={value}" for name, value in row["limits"].items()] + (["admin"] if row["admin"] else [])
        print(f"{row['name']:<20} {row['id']}  {row['state']:<8}  until {row['expires'] or 'revoked':<20}  {models}", *extra)


def _plain(id: str, entry: "Entry", now: datetime) -> dict[str, Any]:
    plain = entry.model_dump(mode="json", exclude={"salt", "hash", "limits"})
    state = "usable" if entry.usable(now) else "disabled" if entry.disabled else "expired"
    return {"id": id, **plain, "limits": entry.limits.model_dump(exclude_unset=True), "state": state}


def _named(table: "KeyTable", name: str) -> "dict[str, Entry]":
    from apps.common.errors import UserError

    entries = table.by_name(name)
    if not entries:
        raise UserError(f"there is no key {name!r}: `list` shows those that exist")
    return entries


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid name: use at most 63 lower-case letters, digits, dots, underscores and dashes"
        )
    return text


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: give for example 30m, 12h, 30d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _when(text: str) -> datetime:
    try:
        return datetime.now(UTC).replace(microsecond=0) + _duration(text)
    except argparse.ArgumentTypeError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a duration such as 30d nor a date such as 2027-01-31") from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when <= datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} is in the past")
    return when


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a weight: give a number above 0 and at most 1000")
    return weight


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
