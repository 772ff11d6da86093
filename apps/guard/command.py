"""`scripts/keys.py`: make, list, rotate and revoke the keys of a keys file. A key's text is given once, and kept nowhere."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.guard.keyfile import change_keys, make_key, read_keys, utc_now, write_key
from apps.guard.keys import NAME, Entry, Keys, by_name
from apps.guard.settings import Limits

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


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
    for limit in Limits.model_fields:
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
    limits = {name: value for name in Limits.model_fields if (value := getattr(options, name)) is not None}
    settings: dict[str, object] = {"name": options.name, "weight": options.weight, "admin": options.admin, "limits": limits}
    settings |= {"expires": options.expires} if options.expires else {}
    settings |= {"models": options.models} if options.models else {}
    text, id, entry = make_key(settings, utc_now())
    with change_keys(options.file) as keys:
        if by_name(keys, options.name):
            raise UserError(f"{options.name!r} already exists: rotate or revoke it, or choose another name")
        keys[id] = entry
        _write_out(options, text)
    _print_out(options, text)


def _rotate(options: argparse.Namespace) -> None:
    now = utc_now()
    until = now + options.grace
    with change_keys(options.file) as keys:
        old = _named(keys, options.name)
        newest = max(old.values(), key=lambda entry: entry.created)
        kept = newest.model_dump(exclude={"salt", "hash", "created"}, exclude_unset=True)
        if newest.expires:
            kept["expires"] = now + (newest.expires - newest.created)  # as long a life as the old one had
        text, id, entry = make_key(kept, now)
        for old_id, old_entry in old.items():
            del keys[old_id]
            last = min(until, old_entry.expires or until)
            if last > now:
                keys[old_id] = old_entry.model_copy(update={"expires": last})
        keys[id] = entry
        _write_out(options, text)
    _print_out(options, text)


def _write_out(options: argparse.Namespace, text: str) -> None:
    """Write a key where the user wants it in a file: before the keys file changes, so that a key that nobody got is none."""
    if options.out:
        write_key(options.out, text)


def _print_out(options: argparse.Namespace, text: str) -> None:
    print(f"the key is in {options.out}" if options.out else text, file=sys.stderr if options.out else sys.stdout)


def _revoke(options: argparse.Namespace) -> None:
    with change_keys(options.file) as keys:
        for id in _named(keys, options.name):
            del keys[id]


def _list(options: argparse.Namespace) -> None:
    now = utc_now()
    entries = sorted(read_keys(options.file).items(), key=lambda item: (item[1].name, item[1].created))
    rows = [_plain(id, entry, now) for id, entry in entries]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        models = ",".join(row["models"]) if row["models"] else "all models"
        extra = [f"{name}={value}" for name, value in row["limits"].items()] + (["admin"] if row["admin"] else [])
        print(f"{row['name']:<20} {row['id']}  {row['state']:<8}  until {row['expires'] or 'revoked':<20}  {models}", *extra)


def _plain(id: str, entry: Entry, now: datetime) -> dict[str, Any]:
    plain = entry.model_dump(mode="json", exclude={"salt", "hash", "limits"})
    state = "usable" if entry.usable(now) else "disabled" if entry.disabled else "expired"
    return {"id": id, **plain, "limits": entry.limits.model_dump(exclude_unset=True), "state": state}


def _named(keys: Keys, name: str) -> Keys:
    entries = by_name(keys, name)
    if not entries:
        raise UserError(f"there is no key {name!r}: `list` shows those that exist")
    return entries


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
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
