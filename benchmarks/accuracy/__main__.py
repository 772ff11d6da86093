"""The command `python -m benchmarks.accuracy`: asks every question once, at temperature 0, and scores exact answers."""

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.settings import api_key
from benchmarks.accuracy.questions import Question, is_right, questions
from benchmarks.accuracy.score import Score, difference, score
from benchmarks.serving.options import add_server, check_server

_CLIENTS = 8
_FORM = "accuracy-result-1"
_SAME = ("api", "questions", "seed", "max_tokens")


@reports_errors("stopped; nothing was written")
def main(argv: Sequence[str]) -> int:
    """Exit code: 2 for bad input, 1 if the server failed an answer."""
    options = _parse(argv)
    earlier = _read(options.against) if options.against else None
    found = _measure(options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found) if options.json else _text(found, earlier))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Ask a model seeded questions with one right answer each: how right is it, and is another layout worse?"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=description)
    add_server(parser)
    add = parser.add_argument
    add("--api", choices=("chat", "completions"), default="chat", help="completions for a base model (default: %(default)s)")
    add("--questions", type=_count, default=200, metavar="N", help="how many (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the questions (default: %(default)s)")
    add("--max-tokens", type=_count, default=48, metavar="N", help="of an answer; thinking needs more (default: %(default)s)")
    add("--timeout", type=float, default=120.0, metavar="S", help="for each answer (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the result here")
    add("--against", type=Path, metavar="FILE", help="compare with this earlier result of the same questions")
    add("--json", action="store_true", help="print the result as JSON")
    found = parser.parse_args(argv)
    check_server(parser, found)
    return found


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.serving.server import Server

    key = api_key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    model = Server(options.url, headers).model_card(options.model)["id"]
    asked = questions(options.questions, options.seed)
    texts = asyncio.run(_ask(options, model, key, asked))
    right = [is_right(question, text) for question, text in zip(asked, texts, strict=True)]
    return {
        "form": _FORM,
        "url": options.url,
        "model": model,
        "api": options.api,
        "questions": options.questions,
        "seed": options.seed,
        "max_tokens": options.max_tokens,
        "families": [question.family for question in asked],
        "right": right,
        "answers": texts,
    }


async def _ask(options: argparse.Namespace, model: str, key: str | None, asked: list[Question]) -> list[str]:
    """The text of each answer. Raises `OperationError` if one does not come."""
    from benchmarks.serving.answer import Asked
    from benchmarks.serving.client import Client, Endpoint

    chat = options.api == "chat"
    client = Client(
        Endpoint.of(options.url, "/v1/chat/completions" if chat else "/v1/completions", key), timeout_s=options.timeout
    )
    turns = asyncio.Semaphore(_CLIENTS)

    async def one(question: Question) -> str:
        prompt = {"messages": [{"role": "user", "content": question.prompt}]} if chat else {"prompt": question.prompt}
        body = {"model": model, "temperature": 0, "max_tokens": options.max_tokens, "stream": True, **prompt}
        async with turns:
            request = Asked(json.dumps(body).encode(), 0, options.max_tokens, exact=False)
            answer = await client.ask(request, perf_counter(), keep_text=True)
        if answer.error:
            raise OperationError(f"{options.url}: {answer.error} {answer.detail}".strip())
        return answer.text

    try:
        return await asyncio.gather(*(one(question) for question in asked))
    finally:
        client.close()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--against {path}: {error}") from error
    if not isinstance(found, dict) or found.get("form") != _FORM:
        raise UserError(f"--against {path}: no result of benchmarks.accuracy")
    return found


def _text(found: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    by_family: defaultdict[str, list[bool]] = defaultdict(list)
    for family, right in zip(found["families"], found["right"], strict=True):
        by_family[family].append(right)
    lines = [_line(family, score(sum(rights), len(rights))) for family, rights in by_family.items()]
    lines.append(_line("all", score(sum(found["right"]), len(found["right"]))))
    return "\n".join([*lines, *([_comparison(found, earlier)] if earlier else [])])


def _line(name: str, found: Score) -> str:
    return (
        f"{name:10} {found.right:4} of {found.asked:4} right  {found.share:6.1%}  (95 %: {found.low:.1%} to {found.high:.1%})"
    )


def _comparison(found: dict[str, Any], earlier: dict[str, Any]) -> str:
    if changed := [name for name in _SAME if found[name] != earlier[name]]:
        raise UserError(f"--against: {', '.join(changed)} differ: ask the same questions in the same way")
    apart = difference(earlier["right"], found["right"])
    verdict = "more than chance explains" if apart.p < 0.05 else "no more than chance explains"
    return (
        f"against {earlier['model']}: {apart.only_second} right only now, {apart.only_first} right only then "
        f"(p = {apart.p:.3f}: {verdict})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
