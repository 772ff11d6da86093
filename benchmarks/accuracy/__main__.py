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
from apps.common.option_types import add_server, check_server
from apps.common.settings import api_key
from benchmarks.accuracy.questions import EvalQuestion, Score, difference, is_right, questions, score
from benchmarks.option_types import whole

_CLIENTS = 8
_FORM = "accuracy-result-1"
_SAME = ("api", "questions", "seed", "max_tokens")


@reports_errors("stopped; nothing was written")
def main(argv: Sequence[str]) -> int:
    """Exit code: 2 for bad input, 1 if the server failed a request."""
    options = _parse(argv)
    earlier = _read(options.against) if options.against else None
    result = _measure(options)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else _text(result, earlier))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Ask a model seeded questions with one right answer each: how right is it, and is another layout worse?"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=description)
    add_server(parser)
    add, count = parser.add_argument, whole(1, 100_000)
    add("--api", choices=("chat", "completions"), default="chat", help="completions for a base model (default: %(default)s)")
    add("--questions", type=count, default=200, metavar="N", help="how many (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the questions (default: %(default)s)")
    add("--max-tokens", type=count, default=48, metavar="N", help="of an answer; thinking needs more (default: %(default)s)")
    add("--timeout", type=float, default=120.0, metavar="S", help="for each answer (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the result here")
    add("--against", type=Path, metavar="FILE", help="compare with this earlier result of the same questions")
    add("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(argv)
    check_server(parser, options)
    return options


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
        **{name: getattr(options, name) for name in _SAME},
        "families": [question.family for question in asked],
        "right": right,
        "answers": texts,
    }


async def _ask(options: argparse.Namespace, model: str, key: str | None, asked: list[EvalQuestion]) -> list[str]:
    """The text of each answer. Raises `OperationError` if one does not come."""
    from benchmarks.serving.client import Client
    from benchmarks.serving.request import Request

    chat = options.api == "chat"
    client = Client(options.url, f"/v1/{'chat/' if chat else ''}completions", key, timeout_s=options.timeout)
    slots = asyncio.Semaphore(_CLIENTS)

    async def answer(question: EvalQuestion) -> str:
        prompt = {"messages": [{"role": "user", "content": question.prompt}]} if chat else {"prompt": question.prompt}
        body = {"model": model, "temperature": 0, "max_tokens": options.max_tokens, "stream": True, **prompt}
        async with slots:
            request = Request(json.dumps(body).encode(), 0, options.max_tokens)
            response = await client.send(request, perf_counter(), keep_text=True)
        if response.error:
            raise OperationError(f"{options.url}: {response.error} {response.detail}".strip())
        return response.text

    try:
        return await asyncio.gather(*(answer(question) for question in asked))
    finally:
        client.close()


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--against {path}: {error}") from error
    if not isinstance(result, dict) or result.get("form") != _FORM:
        raise UserError(f"--against {path}: not a result of benchmarks.accuracy")
    return result


def _text(result: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    by_family: defaultdict[str, list[bool]] = defaultdict(list)
    for family, right in zip(result["families"], result["right"], strict=True):
        by_family[family].append(right)
    lines = [_line(family, score(sum(rights), len(rights))) for family, rights in by_family.items()]
    lines.append(_line("all", score(sum(result["right"]), len(result["right"]))))
    return "\n".join([*lines, *([_comparison(result, earlier)] if earlier else [])])


def _line(name: str, rate: Score) -> str:
    return f"{name:10} {rate.right:4} of {rate.asked:4} right  {rate.share:6.1%}  (95 %: {rate.low:.1%} to {rate.high:.1%})"


def _comparison(result: dict[str, Any], earlier: dict[str, Any]) -> str:
    if changed := [name for name in _SAME if result[name] != earlier[name]]:
        raise UserError(f"--against: {', '.join(changed)} differ: ask the same questions in the same way")
    apart = difference(earlier["right"], result["right"])
    verdict = "more than chance explains" if apart.p < 0.05 else "no more than chance explains"
    return (
        f"against {earlier['model']}: {apart.only_second} right only now, {apart.only_first} right only then "
        f"(p = {apart.p:.3f}: {verdict})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
