"""The report: what it shows, what it does not show, and how sure it is of a comparison."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from apps.common.errors import UserError
from benchmarks.report.__main__ import main
from benchmarks.report.compare import compare, intervals
from benchmarks.report.series import Series
from benchmarks.report.tables import cost
from benchmarks.serving.files import Stored, read, write
from benchmarks.serving.records import Record
from benchmarks.serving.result import Result, Run, Slo
from tests.benchmarks import records

SLO = Slo(ttft_ms=800)


def stored(*runs: Sequence[Record]) -> Stored:
    """A result of runs with these records."""
    made = [records.run(kept, SLO).model_copy(update={"repeat": number}) for number, kept in enumerate(runs)]
    return Stored(Result(setting=records.setting(slo=SLO), runs=made), [list(kept) for kept in runs])


def written(path: Path, result: Stored) -> str:
    write(result.result, result.records or [], str(path))
    return str(path)


def taken(count: int = 200, ttft: float = 0.5) -> list[Record]:
    return records.recorded(records.responses(count, ttft=ttft))


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    made = stored(taken())
    again = read(Path(written(tmp_path / "r.json", made)))
    assert again.result == made.result
    assert again.records == made.records


def test_a_run_without_a_figure_is_no_result(tmp_path: Path) -> None:
    made = stored(taken(30)).result
    run = made.runs[0].model_copy(update={"figures": {}})
    file = tmp_path / "r.json"
    file.write_text(made.model_copy(update={"runs": [run]}).model_dump_json())
    with pytest.raises(UserError, match="a run has no "):
        read(file)


def test_the_page_needs_nothing_else_and_has_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["one", "two", "three"]
    files = [written(tmp_path / f"{name}.json", stored(taken(ttft=0.5 + 0.1 * n))) for n, name in enumerate(names)]
    page = tmp_path / "page.html"
    assert main([*files, "--out", str(page), "--price", "2.7", "--watts", "300"]) == 0
    assert "written" in capsys.readouterr().out
    text = page.read_text()
    assert not re.search(r"""(src|href)=["']?(?!#)[a-z/]""", text)  # nothing is fetched
    assert "@import" not in text
    titles = re.findall("<h2>(.*?)</h2>", text)
    expected = ["Key figures", "Latency and throughput", "Goodput", "Roofline", "Distributions", "Timeline", "Throughput"]
    expected += ["Latency in ms", "two against one", "three against one", "Cost and energy", "Settings"]
    assert titles == expected
    assert text.count("<svg") == 5
    assert "<title>two, p50, 10 requests/s: 600.0 ms</title>" in text  # what a point says when it is hovered over
    markdown = page.with_suffix(".md").read_text()
    assert "| one, 10 requests/s | 200 |" in markdown
    assert "| 10 requests/s | ttft p50 |" in markdown
    table = page.with_suffix(".csv").read_text().splitlines()
    assert len(table) == 4
    assert table[1].startswith("one,10 requests/s,0,valid,200,200,500.0,")


def test_without_a_price_the_reason_is_there_and_without_records_it_says_unverified(tmp_path: Path) -> None:
    file = Path(written(tmp_path / "one.json", stored(taken())))
    (tmp_path / "one.requests.jsonl").unlink()
    page = tmp_path / "page.html"
    assert main([str(file), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Not known: no price or power was given" in text
    assert "unverified: the records of its requests are not there" in text


def test_an_invalid_run_is_named_and_its_figures_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = stored(taken())
    bad.result.runs[0].figures["output_tok_per_s"] = 1e6
    page = tmp_path / "page.html"
    assert main([written(tmp_path / "bad.json", bad), "--out", str(page)]) == 1
    assert "output_tok_per_s is 1000000.0 in the file" in capsys.readouterr().err
    text = page.read_text()
    assert "Invalid: bad, 10 requests/s" in text
    assert "<svg" not in text
    assert "<td>" not in text


def repeats(random: np.random.Generator, share: float, count: int = 4) -> Series:
    """Runs whose whole level differs from one to the next, as that of a real server does, by 3 %."""
    levels = share * np.exp(random.normal(0, 0.03, count))
    return Series(
        "x",
        stored(*(records.recorded(records.responses(30, ttft=0.5 * level, tpot=0.05 * level, tokens=5)) for level in levels)),
    )


def test_identical_loads_seldom_differ_clearly_and_a_slower_server_does() -> None:
    """An A/A test: of comparisons of the same server with itself, 5 % may be called clear."""
    random = np.random.default_rng(1)
    same = [{ratio.figure: ratio for ratio in compare(repeats(random, 1), repeats(random, 1))} for _ in range(40)]
    assert sum(ratios["ttft_p50_ms"].is_clear for ratios in same) <= 5
    slower = {ratio.figure: ratio for ratio in compare(repeats(random, 1), repeats(random, 1.2))}
    assert slower["ttft_p50_ms"].is_clear
    assert slower["ttft_p50_ms"].value == pytest.approx(1.2, rel=0.06)


def test_one_run_each_is_never_called_a_clear_difference() -> None:
    ratios = compare(Series("a", stored(taken())), Series("b", stored(taken(ttft=0.9))))
    assert {(ratio.bounds, ratio.is_clear) for ratio in ratios} == {(None, False)}


def test_an_interval_within_a_run_has_the_figure_in_it() -> None:
    kept = taken(400)
    for number, record in enumerate(kept):
        record.events[0] += 1000 * (number * 37 % 200)
        record.ended = record.intended + sum(record.events) / 1e6
    [validated] = Series("a", stored(kept)).runs
    bounds = intervals(validated, SLO)
    for figure in ("ttft_p50_ms", "e2e_p90_ms", "requests_per_s", "goodput_per_s"):
        low, high = bounds[figure]
        assert low <= (validated.run.figures[figure] or 0) * 1.006
        assert high >= (validated.run.figures[figure] or 0) * 0.994


def test_cost_of_a_million_tokens() -> None:
    run: Run = records.run(taken())
    output, total = run.figures["output_tok_per_s"], run.figures["total_tok_per_s"]
    assert output
    assert total
    of_output = 16 * 2.7 / 3600 / output * 1e6
    assert cost(run, chips=16, price=2.7) == pytest.approx((of_output, of_output * output / total))


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, wrong = tmp_path / "missing.json", tmp_path / "wrong.json"
    wrong.write_text('{"setting": {}}')
    assert main([str(missing)]) == 2
    assert "missing.json" in capsys.readouterr().err
    assert main([str(wrong)]) == 2
    assert "wrong.json: not a result of benchmarks.serving" in capsys.readouterr().err
