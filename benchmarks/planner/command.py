"""`scripts/plan.py`: compare layouts, recommend one, check them with the TPU compiler, write one into a Serve config."""

import argparse
import json
import sys
from collections.abc import Sequence

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from benchmarks.planner.case import Case, Result
from benchmarks.planner.options import parse, question_from
from benchmarks.planner.plain import to_plain
from benchmarks.planner.plan import CONTEXTS, Question, Row, plan
from benchmarks.planner.recommend import Advice, recommend
from benchmarks.planner.tables import Table, compiled_table, markdown, sentences, show, table


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Exit code 0; 2 for bad input, 1 where the compiler or the recommendation fails."""
    return _run(parse(argv))


def _run(options: argparse.Namespace) -> int:
    question = question_from(options)
    rows = plan(question)
    advice = recommend(rows, question)
    chosen = _chosen(rows, advice, options.layout) if options.write else None
    compiled = _compiled(rows, question) if options.compile else {}
    if options.json:
        print(json.dumps(to_plain(rows, question, advice, compiled), indent=1))
    else:
        tables = [table(rows, question), *([compiled_table(compiled)] if compiled else [])]
        _print(tables, sentences(rows, question, advice, compiled), plain=options.markdown or not sys.stdout.isatty())
    if chosen:
        from benchmarks.planner.write import write  # YAML and the checks: not needed otherwise

        write(chosen, question, options.write)
        print(f"{options.write}: has the engine arguments of {chosen.candidate.name} now", file=sys.stderr)
    return 0 if advice.choice else 1


def _print(tables: Sequence[Table], paragraphs: Sequence[str], *, plain: bool) -> None:
    if plain:
        print("\n\n".join([*map(markdown, tables), *paragraphs]))
    else:
        show(tables, paragraphs)


def _chosen(rows: Sequence[Row], advice: Advice, name: str | None) -> Row:
    """The row to write: the one of a name, else the recommended one."""
    if name is None:
        if advice.choice is None:
            raise UserError(f"there is nothing to write: {advice.why} --layout NAME writes a layout all the same")
        return advice.choice
    found = {row.candidate.name: row for row in rows if row.fits}
    if name not in found:
        raise UserError(f"--layout {name!r} is no layout that fits: give one of {', '.join(found)}")
    return found[name]


def _compiled(rows: Sequence[Row], question: Question) -> dict[str, tuple[Case, Result]]:
    """What the compiler says of each layout that holds a sequence of the table's shortest context: with as many as it holds."""
    from benchmarks.planner.compiler import compile_all

    cases = {row.candidate.name: case for row in rows if (case := _case(row, question)).sequences}
    results = compile_all(list(cases.values()), lambda text: print(text, file=sys.stderr, flush=True))
    return dict(zip(cases, zip(cases.values(), results, strict=True), strict=True))


def _case(row: Row, question: Question) -> Case:
    """Decoding with a full cache."""
    layout, context = row.candidate.layout, CONTEXTS[0]
    return Case(
        layout.shape,
        question.on.generation.name,
        question.on.topology,
        layout.tensor_parallel,
        layout.data_parallel,
        layout.pipeline_parallel,
        layout.dtype,
        layout.kv_dtype,
        layout.kv_layout.value,
        row.sequences[context][layout.kv_layout],
        context,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
