"""Derive a Serve config from another one by a patch with the differences, so that nothing is written down twice.

A patch is YAML of the config's own form, merged as RFC 7396 merges JSON: mappings key by key, null removes a key, anything else
replaces. One rule is added, because Serve configs have lists of applications and models: where both sides are lists of
mappings, items are merged one by one, those that have a `name` with the item of that name, others by position.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError


def merged(base: Any, patch: Any) -> Any:
    """A copy of the base as the patch changes it. Raises `UserError` if the patch names an item that the base lacks."""
    if isinstance(patch, dict):
        base = base if isinstance(base, dict) else {}
        kept = {key: value for key, value in base.items() if patch.get(key, "") is not None}
        changed = {key: merged(base.get(key), value) for key, value in patch.items() if value is not None}
        return copy.deepcopy(kept) | changed
    if _are_mappings(base) and _are_mappings(patch):
        result = copy.deepcopy(base)
        for position, item in enumerate(patch):
            at = _place(base, item, position)
            result[at] = merged(base[at], item)
        return result
    return copy.deepcopy(patch)


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _place(items: list[dict[str, Any]], item: dict[str, Any], position: int) -> int:
    names = [entry.get("name") for entry in items]
    if "name" in item and item["name"] in names:
        return names.index(item["name"])
    if "name" in item or position >= len(items):
        raise UserError(f"the patch changes {item.get('name', f'item {position}')!r}, but the base has only {names}")
    return position


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Print the derived config. Exit code 2 where a file cannot be read."""
    options = _parser().parse_args(argv)
    import yaml  # after the options: --help needs none of it

    from apps.checks.source import read

    config = read(options.base).content
    for patch in options.patches:
        config = merged(config, read(patch).content)
    files = ", ".join(file.name for file in options.patches)
    print(f"# Derived from {options.base.name} by {files}: change those, not this file.")
    yaml.safe_dump(config, sys.stdout, sort_keys=False, width=128)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rts derive", description="Derive a Serve config from another one by patches.")
    parser.add_argument("base", metavar="BASE", type=Path, help="a Serve config, such as serve_configs/gemma.yaml")
    parser.add_argument("patches", metavar="PATCH", type=Path, nargs="+", help="what differs, in the config's own form")
    return parser
