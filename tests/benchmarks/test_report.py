"""The report: what it shows, what it does not show, and how sure it is of a comparison."""

import re
from pathlib import Path

import pytest

from benchmarks.report.__main__ import main
from benchmarks.report.compare import compare
from benchmarks.report.series import Series
from benchmarks.report.tables import cost
from benchmarks.serving.result import Result, Run, Slo, read, write
from tests.benchmarks import records

SLO = Slo(ttft_ms=800)


def result(*runs: Run, **changes: object) -> Result:
    return Result(setting=records.setting(**changes), runs=list(runs))


def written(path: Path, stored: Result) -> str:
    write(stored, path)
    return str(path)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    stored = result(records.run(records.responses(100), SLO))
    assert read(Path(written(tmp_path / "r.json", stored))) == stored


def test_the_page_needs_nothing_else_and_has_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = written(tmp_path / "one.json", result(records.run(records.responses(200), SLO)))
    second = written(tmp_path / "two.json", result(records.run(records.responses(200, ttft=0.6), SLO)))
    page = tmp_path / "page.html"
    assert main([first, second, "--out", str(page), "--price", "2.7"]) == 0
    assert "written" in capsys.readouterr().out
    text = page.read_text()
    assert not re.search(r"""(src|href)=["']?(?!#)[a-z/]""", text)  # nothing is fetched
    assert "@import" not in text
    titles = re.findall("<h2>(.*?)</h2>", text)
    expected = ["Throughput and goodput", "Latency and throughput", "Goodput", "Roofline", "Distributions", "Timeline"]
    expected += ["Latency in ms", "two against one", "Cost", "Settings"]
    assert titles == expected
    assert text.count("<svg") == 5
    markdown = page.with_suffix(".md").read_text()
    assert "| one, 10 requests/s | 200 |" in markdown
    assert "| 10 requests/s | ttft p50 |" in markdown


def test_an_invalid_run_is_named_and_its_figures_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = records.run(records.responses(200))
    bad.prompt_tokens = round(463_345 * bad.elapsed_s)
    page = tmp_path / "page.html"
    assert main([written(tmp_path / "bad.json", result(records.with_figures(bad))), "--out", str(page)]) == 1
    assert "463,345 prompt tok/s is 7.4 times" in capsys.readouterr().err
    text = page.read_text()
    assert "Invalid: bad, 10 requests/s" in text
    assert "<svg" not in text
    assert "<td>" not in text


def test_the_same_server_twice_is_no_difference_and_a_slower_one_is() -> None:
    def varied(share: float) -> Run:
        taken = list(records.responses(300, ttft=0.0))
        for number, response in enumerate(taken):
            assert response.first is not None
            assert response.last is not None
            ttft = share * (0.3 + 0.01 * (number * 37 % 20))
            response.first, response.last = response.first + ttft, response.last + ttft
        return records.run(taken, SLO)

    once, again, slower = (Series(name, result(varied(share))) for name, share in (("a", 1.0), ("b", 1.0), ("c", 1.2)))
    same = {ratio.figure: ratio for ratio in compare(once, again)}
    assert same["ttft_p50_ms"].value == pytest.approx(1)
    assert not any(ratio.is_clear for ratio in same.values())
    other = {ratio.figure: ratio for ratio in compare(once, slower)}["ttft_p50_ms"]
    assert other.value == pytest.approx(1.2, rel=0.02)
    assert other.low is not None
    assert other.high is not None
    assert 1 < other.low <= 1.2 <= other.high * 1.01


def test_short_runs_have_no_interval() -> None:
    short = Series("short", result(records.run(records.responses(30, every=0.01))))
    assert {(ratio.low, ratio.high) for ratio in compare(short, short)} == {(None, None)}


def test_cost_of_a_million_tokens() -> None:
    run = records.run(records.responses(200))
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
    assert "wrong.json: not a result of benchmarks.serving: setting.url" in capsys.readouterr().err
