"""Write the pages of docs/reference/ from the code: commands, cluster spec, Serve config arguments, metrics and alerts.

`scripts/docs.sh --reference` runs it; with `--check` nothing is written, and the exit code is 1 if a page is out of date.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from pydantic import BaseModel
from ray.util.metrics import Metric

from apps.chat.args import ChatArgs
from apps.llm.args import LLMArgs
from apps.weights.args import PrefetchArgs
from kuberay.observability.dashboards import dashboards
from kuberay.spec import Spec
from scripts.rts import COMMANDS, Command

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
_OTHER_COMMANDS = {
    "scripts/control_plane.sh": Command("emulation.kubernetes.__main__", "a real Kubernetes control plane on this machine"),
    "rts bench check": Command("benchmarks.serving.__main__", "whether results can be true, also other tools'", ("check",)),
    "benchmarks.accuracy": Command("benchmarks.accuracy.__main__", "score a server on questions with one right answer each"),
}
_DECLARES_METRICS = re.compile(r"\b(Counter|Gauge|Histogram)\(\n?\s*f?\"")
_METRIC = re.compile(r"\bray_\w+")


class _ParserFound(BaseException):
    """Carries a command's parser out of its `main`, before anything is parsed."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser, by the name that people type: `scripts/gke.py`, `python -m benchmarks.serving`, `rts derive`."""
    found = [_parser_of(command) for command in (*COMMANDS.values(), *_OTHER_COMMANDS.values())]
    return {parser.prog: parser for parser in found}


def _parser_of(command: Command) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _ParserFound(parser)

    module = import_module(command.module)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            module.main([*command.before])
        except _ParserFound as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise LookupError(f"{command.module}: its main parses no arguments")


def cli() -> str:
    """Every command with its own commands and options."""
    lines = [
        "# Commands",
        "",
        "`scripts/rts.py NAME` runs each of these commands; where the package is installed, `rts NAME` does. The scripts in "
        '`scripts/` are the same commands under names of their own. `eval "$(scripts/rts.py completion bash)"` completes the '
        "commands and options of an installed `rts` (`zsh` too). Exit codes: 0 done, 1 failed, 2 bad input, 130 after Ctrl-C.",
        "",
        "| command | what it does |",
        "|---|---|",
    ]
    lines += [f"| [`{name}`](#{_anchor(f'rts {name}')}) | {command.what} |" for name, command in COMMANDS.items()]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {command.what} |" for name, command in _OTHER_COMMANDS.items()]
    for name, command in ({f"rts {name}": command for name, command in COMMANDS.items()} | _OTHER_COMMANDS).items():
        parser = _parser_of(command)
        own = subcommands(parser)
        if command.before and own:  # such as `rts doctor`, one of the commands of `cluster`
            parser, own = own[command.before[0]], {}
        also = "" if parser.prog in (name, f"{name} {''.join(command.before)}") else f" Also: `{parser.prog}`."
        lines += ["", f"## {name}", "", _sentence(parser.description or command.what) + also]
        lines += _options(parser)
        for sub, below in own.items():
            lines += ["", f"### {name} {sub}", "", _sentence(below.description or _help_of(parser, sub)), *_options(below)]
    return "\n".join(lines) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _help_of(parser: argparse.ArgumentParser, sub: str) -> str:
    (action,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return next((str(one.help) for one in action._choices_actions if one.dest == sub), "")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        if action.option_strings:
            words = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper())}"
            name = f"`{', '.join(action.option_strings)}{words}`"
        else:
            name = f"`{formatter._format_args(action, action.dest)}`"
        if action.choices:
            name = name.replace("{" + ",".join(map(str, action.choices)) + "}", "|".join(map(str, action.choices)))
        text = formatter._expand_help(action) if action.help else ""
        rows.append(f"| {_cell(name)} | {_cell(text)}{' (required)' if action.required and action.option_strings else ''} |")
    return ["", "| argument | meaning |", "|---|---|", *rows] if rows else []


def cluster_spec() -> str:
    """The keys of cluster.yaml."""
    intro = (
        "The one file that describes a deployment; `kuberay/examples/gemma-v6e-4x4.yaml` is one to copy. Everything else "
        "(hosts, machine type, labels, rights) is derived from it. An unknown key or an invalid value is refused with file and "
        "line before anything is changed. How to use it: [On GKE](../gke.md)."
    )
    return _page("cluster.yaml", intro, [("", Spec)])


def serve_config() -> str:
    """The arguments of this project's apps."""
    intro = (
        "What the apps of this project take under `args:` in a Serve config. Everything else in such a file is Ray's own: "
        "`ServeDeploySchema` for the file, `LLMConfig` for an entry of `llm_configs`, and vLLM's engine arguments in "
        "`engine_kwargs`. `scripts/validate.py` checks all of them: [how](../configs.md)."
    )
    roots: list[tuple[str, type[BaseModel]]] = [
        ("apps.llm:build_app", LLMArgs),
        ("apps.chat:build_app", ChatArgs),
        ("callback_kwargs", PrefetchArgs),
    ]
    return _page("Arguments in a Serve config", intro, roots)


def _page(title: str, intro: str, roots: list[tuple[str, type[BaseModel]]]) -> str:
    lines = [f"# {title}", "", intro]
    for name, model in roots:
        for path, one in _models(model):
            heading = path or name
            lines += ["", f"## {heading}"] if heading else []
            lines += ["", _prose(inspect.getdoc(one) or ""), "", "| key | value | default | meaning |", "|---|---|---|---|"]
            lines += _fields(one, path)
    return "\n".join(lines) + "\n"


def _models(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those within it, each with the dotted path of its keys."""
    yield path, model
    for name, field in model.model_fields.items():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if inspect.isclass(part) and issubclass(part, BaseModel):
                yield from _models(part, f"{path}.{name}".lstrip("."))


def _fields(model: type[BaseModel], path: str) -> list[str]:
    schema = model.model_json_schema()
    texts = _field_texts(model)
    rows = []
    for name, field in schema["properties"].items():
        below = f"{path}.{name}".lstrip(".")
        value, default = _type(field, f"[see below](#{_anchor(below)})"), _default(field, name in schema.get("required", []))
        text = field.get("description") or texts.get(name)
        if not text:
            raise LookupError(f"{model.__module__}.{model.__name__}.{name}: give it a docstring or a comment for the reference")
        rows.append(f"| `{name}` | {_cell(value)} | {default} | {_cell(_sentence(text))} |")
    return rows


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    """What a model's source says of its fields: in a docstring below, or in a comment on the line."""
    source = textwrap.dedent(inspect.getsource(model))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    lines, found = source.splitlines(), {}
    for field, below in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            comment = lines[(field.end_lineno or field.lineno) - 1].partition("  # ")[2]
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else comment
            found[field.target.id] = str(text)
    return found


def _type(field: dict[str, Any], link: str) -> str:
    if "$ref" in field or "allOf" in field:
        return link
    if "anyOf" in field:
        return " or ".join(_type(one, link) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return " or ".join(f"`{one}`" for one in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field['items'], link)}"
    words = {"integer": "whole number", "object": "mapping", "string": "path" if field.get("format") == "path" else "text"}
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    said = [f"{word} {field[key]:,}" for key, word in limits.items() if key in field]
    return ", ".join([words.get(kind, kind), *said])


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if value is None:
        return "none"
    if isinstance(value, dict) or value == []:
        return "its own" if value else "empty"
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def metrics() -> str:
    """This project's metrics, then what dashboards and alerts ask for."""
    lines = [
        "# Metrics, dashboards and alerts",
        "",
        "Ray exports all metrics, its own and vLLM's included, on each node's metrics port, and adds `ray_` to their names. "
        "How to collect them: [Observe](../observe.md).",
        "",
        "## Metrics of this project",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
        *(f"| `ray_{name}` | {kind} | {labels} | {_cell(text)} |" for name, kind, labels, text in sorted(_own_metrics())),
    ]
    for board in dashboards():
        lines += ["", f"## Dashboard: {board.title}", "", "| panel | shows | metrics |", "|---|---|---|"]
        lines += [
            f"| {panel.title} | {_cell(panel.text)}{' TPU only.' if panel.needs_tpu else ''} | {_names(panel.queries)} |"
            for panel in board.panels
        ]
    lines += ["", "## Alerts", "", "| alert | severity | fires when | for | metrics |", "|---|---|---|---|---|"]
    rules = yaml.safe_load((ROOT / "kuberay" / "observability" / "alerts.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        name, text = rule["alert"], re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", r"*\1*", rule["annotations"]["summary"])
        lines.append(
            f"| [{name}](../alerts/{name}.md) | {rule['labels']['severity']} | {_cell(text)} | {rule.get('for', 'at once')} "
            f"| {_names({'': rule['expr']})} |"
        )
    return "\n".join(lines) + "\n"


def _own_metrics() -> list[tuple[str, str, str, str]]:
    """Name, type, labels and meaning of what the apps declare: their modules are imported, and their classes instantiated."""
    found: list[Metric] = []
    begin = Metric.__init__

    def record(metric: Metric, *args: Any, **options: Any) -> None:
        begin(metric, *args, **options)
        found.append(metric)

    files = [file for file in (ROOT / "apps").rglob("*.py") if "from ray.util.metrics import" in file.read_text()]
    with mock.patch.object(Metric, "__init__", record):
        for file in sorted(files):
            module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
            for one in vars(module).values():
                if (
                    inspect.isclass(one)
                    and one.__module__ == module.__name__
                    and _DECLARES_METRICS.search(inspect.getsource(one))
                ):
                    one(*["" for name in inspect.signature(one).parameters])
    rows = ((one.info, type(one).__name__.lower()) for one in found)
    return [(info["name"], kind, ", ".join(info["tag_keys"]) or "none", info["description"]) for info, kind in rows]


def _names(queries: dict[str, str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted({name for query in queries.values() for name in _METRIC.findall(query)}))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def _prose(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    found = _prose(text)
    return found[:1].upper() + found[1:] + ("" if found.endswith((".", "`")) else ".")


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


_HEAD = "<!-- Made by `scripts/docs.sh --reference` from the code: change that, not this. -->\n\n"
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "cluster-spec.md": cluster_spec,
    "serve-config.md": serve_config,
    "metrics.md": metrics,
}


def main(argv: list[str]) -> int:
    """Write the pages, or check them."""
    stale = []
    for name, page in PAGES.items():
        text, file = _HEAD + page(), FOLDER / name
        if not file.exists() or file.read_text() != text:
            stale.append(str(file.relative_to(ROOT)))
            if argv != ["--check"]:
                file.write_text(text)
    print("\n".join(f"{'out of date' if argv == ['--check'] else 'written'}: {one}" for one in stale) or "up to date")
    return 1 if stale and argv == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
