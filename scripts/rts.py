#!/usr/bin/env python3
"""All commands of this project as one: `rts COMMAND ...`. Each is a module with a `main`, imported once it is called."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """`before` is inserted before the arguments that follow the command's name."""

    module: str
    what: str
    before: tuple[str, ...] = ()


COMMANDS = {
    "serve": Command("emulation.hosts.__main__", "serve Gemma on this machine's CPU", ("up",)),
    "emulate": Command("emulation.hosts.__main__", "serve on TPU slices that are emulated on this machine", ("slice",)),
    "stop": Command("emulation.hosts.__main__", "stop what serve or emulate has started", ("down",)),
    "observe": Command("emulation.hosts.observe", "show dashboards and alerts of a running local stack"),
    "validate": Command("apps.checks.command", "check Serve configs before they are deployed"),
    "derive": Command("apps.checks.variant", "derive a Serve config from another one by patches"),
    "plan": Command("benchmarks.planner.command", "choose a model's layout on a slice before it is rented"),
    "compile": Command("benchmarks.compile.command", "compile what the TPU engine would compile at a start, without a TPU"),
    "gke": Command("kuberay.gke.command", "create, check and remove what a deployment needs in Google Cloud"),
    "cluster": Command("kuberay.command", "run a deployment on Kubernetes from its spec"),
    "doctor": Command("kuberay.command", "check a deployment for known troubles", ("doctor",)),
    "rollout": Command("kuberay.rollout.command", "change what a running Serve serves, with a way back"),
    "weights": Command("apps.weights.__main__", "stage, prefetch, verify and list weights"),
    "keys": Command("apps.guard.command", "make, list, rotate and revoke keys of the API"),
    "batch": Command("apps.batch.__main__", "send files of requests in OpenAI's Batch format, and write the answers"),
    "bench": Command("benchmarks.serving.__main__", "measure a server of the OpenAI API"),
    "report": Command("benchmarks.report.__main__", "write a page with plots from what bench has measured"),
}
_COMPLETE = """_rts() {
  local words
  case "${COMP_WORDS[1]}" in
%s
    *) words="" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="%s"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
  [ "${#COMPREPLY[@]}" -gt 0 ] || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o filenames -F _rts rts
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 after Ctrl-C."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(_usage())
        return 0
    if name == "--version":
        from apps.common.settings import name_and_version

        print(name_and_version())
        return 0
    if name == "completion":
        return _completion(rest)
    if name not in COMMANDS:
        print(f"error: {name!r} is no command. One of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    code: int = import_module(command.module).main([*command.before, *rest])
    return code


def _usage() -> str:
    rows = "\n".join(f"  {name:10} {command.what}" for name, command in COMMANDS.items())
    return f"usage: rts COMMAND ...\n\n{rows}\n\n  completion bash|zsh    print the shell's completion\n  --version, --help"


def _completion(argv: Sequence[str]) -> int:
    """Print completion for a shell: commands, their own commands and options, read from their `--help`."""
    if list(argv) not in (["bash"], ["zsh"]):
        print('error: give bash or zsh, as in: eval "$(rts completion bash)"', file=sys.stderr)
        return 2
    cases = "\n".join(f'    {name}) words="{" ".join(_words([name]))}" ;;' for name in COMMANDS)
    if argv[0] == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(_COMPLETE % (cases, " ".join([*COMMANDS, "completion", "--version", "--help"])))
    return 0


def _words(command: Sequence[str]) -> list[str]:
    """Options of a command and, where it has commands of its own, those with their options."""
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    text = output.getvalue()
    own = re.findall(r"^    ([a-z][a-z-]+)(?=\s)", text, re.MULTILINE) if "COMMAND ..." in text else []
    below = [word for name in own if len(command) == 1 for word in _words([*command, name])]
    return sorted({*re.findall(r"(?<![\w-])--[a-z][a-z-]+", text), *own, *below})


if __name__ == "__main__":
    if __package__:
        sys.exit(main())
    from _launch import launch  # as a script: by the project's own Python

    launch()
