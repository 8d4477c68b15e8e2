"""The options of the benchmark, its tables and its files."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench, peer_env, report
from loadtests.measure import RAW, Cell, Round
from loadtests.scrape import Histogram
from loadtests.targets import LIGHT, SERVICE, Results, ServerFacts, judge


def small_results() -> Results:
    """A run of two cells."""
    batches = Histogram({"8.0": 3.0, "32.0": 1.0}, 50.0)
    cells = [
        Cell(name, LIGHT, RAW, 64, [Round(rate, 1.0, 2.0, 0, 1.5, 1000.0, None, 0.3 if sizes is None else 0.02, sizes)])
        for name, rate, sizes in ((SERVICE, 750.0, batches), ("litserve", 100.0, None))
    ]
    bare = {LIGHT: [{"setting": "b", "images_per_second": 1000.0, "p50_ms": 1.0, "threads": 1, "instances": 1}]}
    facts = [ServerFacts(SERVICE, LIGHT, 1.0, 0.004, 120.0, 90.0)]
    return Results(bare=bare, cells=cells, servers=facts, unavailable={"mosec": "pip failed: no such package"})


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.build_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in text for option in ("--quick", "--duration", "--rounds", "--only", "--output"))


def test_a_section_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.build_parser().parse_args(["--only", "triton"])
    assert "litserve" in capsys.readouterr().err


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    options = bench.build_parser().parse_args(["--repository", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="train 'fashion-mnist' first"):
        bench.Bench(options, Console(file=io.StringIO()))


def test_tables_tell_what_was_reached_and_what_was_not_measured() -> None:
    results, page = small_results(), io.StringIO()
    report.print_tables(Console(file=page, width=150), results, judge(results))
    text = page.getvalue()
    assert "reached" in text
    assert "not measured" in text
    assert "hotplate / litserve, fashion-mnist, raw, 64 callers: 7.50" in text
    assert "mosec: pip failed: no such package" in text
    assert "<=8:75%" in text
    assert "1 of 2 rounds lie between bare bursts that differ by more than 15%" in text


def test_a_run_is_written_as_json_and_as_a_chart(tmp_path: Path) -> None:
    results = small_results()
    report.write_files(tmp_path, results, judge(results), bench.build_parser().parse_args([]))
    page = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert page["ratios"]["litserve"] == pytest.approx(7.5)
    assert page["cells"][0]["rounds"][0]["batch_sizes"] == {"8.0": 3.0, "32.0": 1.0}
    assert page["machine"]["cores"] >= 1
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(peer_env.PeerError, match="No such file"):
        peer_env.peer_python(tmp_path / "venv", "litserve")
