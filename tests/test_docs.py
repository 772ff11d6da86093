"""README and docs/: links lead somewhere, pages are reached, commands exist with their options, the reference is current."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve_cli

from docs.make_reference import parsers, subcommands
from scripts.rts import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
HANDBOOK = ROOT / "docs" / "operations.md"
ROOMS = "apps|benchmarks|docs|emulation|examples|kuberay|runtime_env|scripts|serve_configs|tests"
FOREIGN = {
    "curl",
    "eval",
    "export",
    "gcloud",
    "helm",
    "kubectl",
    "pipx",
    "pre-commit",
    "lm_eval",
}
"""Programs in the docs that are not this project's; what follows them is theirs to check."""
RAY = {"ray": ray_cli, "serve": serve_cli}
IGNORED_OPTIONS = {"--help", "--version"}


def links(page: Path) -> set[tuple[Path, str]]:
    """Files of this project that a page links to or shows, also those that are not there, each with its anchor or nothing."""
    targets = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)[^)]*\)", page.read_text())
    return {((page.parent / file).resolve() if file else page, anchor) for file, anchor in targets if "://" not in file}


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's indented lines and shell blocks, without variables set before it."""
    text = page.read_text()
    indented = ["".join(lines) for lines in re.findall(r"(?:^|\n)\n((?: {4}[^\n]*\n)+)", text)]
    fenced = re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "".join([*indented, *fenced]).replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s", re.sub(r"\s+#\s.*", "", line)):
            words = shlex.split(part, comments=True) if part.count('"') % 2 == 0 else part.split()
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words
    for span in re.findall(r"`([^`\n]+ [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        words = span.split()  # a command in the middle of a sentence, by its name with or without the folder
        script = words[0] if "/" in words[0] else f"scripts/{words[0]}"
        if re.fullmatch(r"scripts/[\w.]+\.(py|sh)|(\.venv/bin/)?(ray|serve|python)", words[0]) or (ROOT / script).is_file():
            yield [script if (ROOT / script).is_file() else words[0], *words[1:]]


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}#{anchor}"
        for page in PAGES
        for target, anchor in links(page)
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target))
    ]
    assert broken == []


def test_every_page_and_picture_is_reached_from_the_readme() -> None:
    reached, new = set(), {README}
    while new:
        reached |= new
        pages = [page for page in new if page.suffix == ".md"]
        new = {target for page in pages for target, _ in links(page) if target.is_relative_to(ROOT)} - reached
    files = {file for file in (ROOT / "docs").rglob("*.*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert {str(file.relative_to(ROOT)) for file in files - reached} == set()
    assert {str(page.relative_to(ROOT)) for page in set(PAGES) - reached} == set()


def test_every_file_that_a_page_names_is_there() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in re.findall(rf"`((?:{ROOMS})/[\w./-]+)`", page.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_there_with_its_options(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {why}" for words in commands(page) if (why := _fault(words))]
    assert wrong == []


def _fault(words: list[str]) -> str | None:
    program, *arguments = words
    if program in FOREIGN or re.match(r"[\w.]+\.yaml:\d+:$", program):  # the latter is output
        return None
    if (tool := RAY.get(program.removeprefix(".venv/bin/"))) is not None:
        return _unknown_to_click(tool, arguments)
    if program == "cp":
        return None if (ROOT / arguments[0]).is_file() else f"no file {arguments[0]}"
    if program in (".venv/bin/python", ".venv-tpu/bin/python", "python") and arguments[0] == "-m":
        return _unknown(arguments[2:], _options_of_module(arguments[1]))
    if program == ".venv/bin/python":
        return None if (ROOT / arguments[0]).is_file() else f"no file {arguments[0]}"
    if not program.startswith(("scripts/", "examples/")) or not os.access(ROOT / program, os.X_OK):
        return "no such program"
    return _unknown(arguments, _options_of_script(program, arguments))


def _unknown_to_click(tool: Any, arguments: list[str]) -> str | None:
    """A subcommand or an option that Ray's own command does not have."""
    while arguments and hasattr(tool, "commands"):
        name, *arguments = arguments
        if name not in tool.commands:
            return f"it has no {name}"
        tool = tool.commands[name]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    known = {option for parameter in tool.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return _unknown(arguments[:end], known)


def _unknown(arguments: list[str], known: set[str]) -> str | None:
    given = {word.partition("=")[0] for word in arguments if re.match(r"--[a-z]", word)}
    unknown = given - known - IGNORED_OPTIONS
    return f"it has no {', '.join(sorted(unknown))}" if unknown else None


def _options_of_script(script: str, arguments: list[str]) -> set[str]:
    parser = parsers_by_name().get(script)
    if script == "scripts/rts.py":
        if arguments[0] in ("completion", "--version", "NAME"):
            return set()
        assert arguments[0] in COMMANDS
        parser = parsers_by_name().get(f"rts {arguments[0]}")
    if parser is None:  # written in shell
        command = [str(ROOT / script), *(arguments[:1] if script == "scripts/rts.py" else []), "--help"]
        return options_in(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    own = next((sub for name, sub in subcommands(parser).items() if name in arguments), None)
    assert own or not subcommands(parser), f"{script}: none of {list(subcommands(parser))} in {arguments}"
    return _options(parser) | (_options(own) if own else set())


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return options_in(parser.format_help())


@cache
def parsers_by_name() -> dict[str, argparse.ArgumentParser]:
    return parsers()


@cache
def _options_of_module(module: str) -> set[str]:
    assert find_spec(module), f"there is no module {module}"
    if module == "tests.e2e.drills":  # takes none
        return set()
    helps = [[]] if module != "apps.weights" else [[name] for name in ("stage", "prefetch", "verify", "list")]
    asked = [[sys.executable, "-m", module, *words, "--help"] for words in helps]
    return {option for command in asked for option in options_in(subprocess.check_output(command, cwd=ROOT, text=True))}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_the_handbook_has_a_row_for_every_alert() -> None:
    rules = yaml.safe_load((ROOT / "kuberay" / "observability" / "alerts.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    rows = {line.split("|")[1].strip(): line for line in HANDBOOK.read_text().splitlines() if line.startswith("| [")}
    assert {f"[{alert}](alerts/{alert}.md)" for alert in alerts} <= set(rows)


def test_troubleshooting_quotes_messages_that_exist() -> None:
    """A symptom in backticks with a space in it is a message, with `...` for what differs each time."""
    sources = (file for room in ROOMS.split("|") for file in (ROOT / room).rglob("*.*") if file.suffix in (".py", ".sh"))
    code = "".join(re.sub(r"[\"']\s*\n\s*f?[\"']", "", file.read_text()) for file in sources if "tests" not in file.parts)
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if " " in quote]
    assert len(quotes) > 30
    assert [quote for quote in quotes for part in quote.split("...") if part.strip(" :") not in code] == []


def test_the_reference_is_what_the_code_says() -> None:
    """In a process of its own, where no metric has been declared yet. `scripts/docs.sh --reference` writes the pages anew."""
    done = subprocess.run([sys.executable, "-m", "docs.make_reference", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "up to date\n"), done.stderr


@pytest.mark.full
def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere() -> None:
    done = subprocess.run([ROOT / "scripts" / "docs.sh"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="?https?://|<link[^>]+rel="?(?:stylesheet|preconnect|icon)[^>]+https?://'
    )
    pages = list((ROOT / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 5
    assert [str(page) for page in pages if fetched.search(page.read_text())] == []
