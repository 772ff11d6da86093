"""Read a YAML file and remember the line of every key. The only module of the checks that knows YAML."""

from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import yaml

from apps.checks.findings import Path
from apps.common.errors import UserError


@dataclass(frozen=True)
class Source:
    """A file's content and the line (from 1) of each path in it."""

    content: Any
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The line of a path; for one that is not in the file, the line of its nearest parent."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(file: File) -> Source:
    """Read a config. Raises `UserError` for a file that is not readable YAML, or has a key twice in one mapping."""
    try:
        text = file.read_text()
        node = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise UserError(f"{where}: is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}:1: is {type(content).__name__}, but must be a mapping with the key applications")
    lines: dict[Path, int] = {}
    _walk(node, (), lines, file)
    return Source(content, lines)


def _walk(node: Any, path: Path, lines: dict[Path, int], file: File) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            if here in lines and key.value != "<<":
                raise UserError(f"{file}:{key.start_mark.line + 1}: {key.value!r} is there twice (first on line {lines[here]})")
            lines[here] = key.start_mark.line + 1
            _walk(value, here, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _walk(value, (*path, index), lines, file)
