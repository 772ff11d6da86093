"""Change single values in the text of a YAML file, so that its comments and its order stay."""

import re
from typing import Any

import yaml

from apps.checks.findings import Path
from apps.common.errors import UserError

_LINE = re.compile(r"(?P<start> *\w+:) +[^#\s]+( +#.*)?$")


def set_value(text: str, path: Path, value: Any, comment: str) -> str:
    """The text with one value set, with a comment in the place of the one that was there; None removes the line.

    A value that is right already keeps its line as it is.

    Raises:
        UserError: the key or the mapping that it is in are not on lines of their own.
    """
    lines, where = text.splitlines(keepends=True), ".".join(map(str, path))
    parent = _node(yaml.compose(text, yaml.SafeLoader), path[:-1])
    if not isinstance(parent, yaml.MappingNode) or parent.flow_style or not parent.value:
        raise UserError(f"{where} cannot be set: what it is in must be a mapping with a line for each key")
    old = next((pair for pair in parent.value if pair[0].value == path[-1]), None)
    if old is None:
        first = parent.value[0]  # after it: before it may stand the dash of a list
        new = [] if value is None else [f"{' ' * first[0].start_mark.column}{path[-1]}: {value}"]
        number, count = parent.value[1][0].start_mark.line if len(parent.value) > 1 else first[1].end_mark.line + 1, 0
    else:
        number, count = old[0].start_mark.line, 1
        found = _LINE.match(lines[number].rstrip("\n"))
        if found is None:
            raise UserError(f"{where} cannot be set: line {number + 1} must be `{path[-1]}: VALUE`")
        if yaml.safe_load(text[old[1].start_mark.index : old[1].end_mark.index]) == value:
            return text
        new = [] if value is None else [f"{found['start']} {value}"]
    lines[number : number + count] = [f"{line} # {comment}\n" for line in new]
    return "".join(lines)


def _node(node: Any, path: Path) -> Any:
    for step in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
        else:
            node = next((value for key, value in getattr(node, "value", ()) if key.value == step), None)
    return node
