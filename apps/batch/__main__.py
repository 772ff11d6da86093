"""`rts batch`, or `python -m apps.batch`: options are checked before anything heavy is imported."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.common.option_types import add_server, check_server, seconds, whole_number

_DESCRIPTION = """Send the requests of files in OpenAI's Batch format to a running server, and write the answers
in that format. The same command goes on after a stop of any kind. Through Ray:
ray job submit --working-dir . -- python -m apps.batch gs://BUCKET/requests.jsonl --to gs://BUCKET/answers.jsonl"""


@reports_errors("stopped; what was answered is kept, and the same command goes on with the rest")
def main(argv: Sequence[str]) -> int:
    """Exit code: 0 once every request has its line in an output, 1 if the same command has to go on, 2 for bad input."""
    options = _parse(argv)
    from apps.batch.run import run

    summary = run(options)
    print(json.dumps(summary) if options.json else _text(summary, options))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apps.batch", description=_DESCRIPTION)
    add = parser.add_argument
    add(
        "input",
        metavar="INPUT",
        help="a file of JSON lines, a folder of *.jsonl, or a URL of either, such as gs://BUCKET/x.jsonl",
    )
    add("--to", required=True, metavar="OUTPUT", help="file or URL of the answers; those that failed go into OUTPUT's .errors")
    add("--concurrency", type=whole_number, default=64, metavar="N", help="requests at a time, at most (default: %(default)s)")
    add("--timeout", type=seconds, default=600.0, metavar="S", help="for each answer (default: %(default)s)")
    add("--patience", type=seconds, default=600.0, metavar="S", help="for a server that is full or away (default: %(default)s)")
    add("--dry-run", action="store_true", help="check the input, say how much is answered, and send and write nothing")
    add("--json", action="store_true", help="print the summary as JSON")
    add_server(parser, "the model of requests that name none; without it, each must name one")
    options = parser.parse_args(argv)
    check_server(parser, options)
    source, target = (Path(each.removeprefix("file://")).resolve() for each in (options.input, options.to))
    if source in (target, *target.parents):
        raise UserError(f"--to {options.to}: part of the input {options.input}; give a place outside of it")
    return options


def _text(summary: dict[str, Any], options: argparse.Namespace) -> str:
    if options.dry_run:
        return f"{summary['requests']} requests are right, {summary['answered']} are answered already; nothing was sent"
    failed = f"{summary['failed']} failed" + (f" ({_listed(summary['failures'])})" if summary["failed"] else "")
    done = f"{options.to}: {summary['ok']} of {summary['requests']} requests answered, {failed}"
    if summary["duration_s"] is None:
        return f"{done}; it was finished before, and nothing was sent"
    run = f"{summary['sent']} sent in {summary['duration_s']:.1f} s"
    if summary["output_tok_per_s"] is not None:
        tokens = f"{summary['prompt_tokens'] or 0:,} tokens in, {summary['completion_tokens']:,} out"
        run = f"{tokens}; {run}, {summary['output_tok_per_s']:,.0f} tok/s"
    return f"{done}\n{run}" + (f"; tried again: {_listed(summary['retries'])}" if summary["retries"] else "")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
