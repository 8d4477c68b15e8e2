"""The benchmark of generators: its figures, targets and reports, and one short run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench_generators, generator_report
from loadtests import generator_cells as cells
from loadtests.bare import Burst, running_bare
from loadtests.servers import ROOT
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.image_generation import write_gan

JUDGED = cells.Load("json", 64, 8)


def measured(images_per_second: float, compute: float) -> cells.Round:
    return cells.Round(images_per_second, 50.0, 1.4, compute, 48.0, 0.125, {"compute": 9.5, "encode": 8.0})


def results() -> cells.Results:
    """A run whose second round was slow for everybody."""
    made = cells.Results("fashion-gan@1", 1, 1)
    for bare in (1000.0, 500.0, 1100.0):
        made.add_bare(64, bare)
        made.add_bare(1, bare / 4)
    for rate, compute in ((600.0, 900.0), (350.0, 490.0), (700.0, 990.0)):
        made.add(JUDGED, measured(rate, compute))
        made.add(cells.Load("png", 64, 8), measured(rate / 2, compute / 2))
    return made


def test_the_target_is_held_against_bare_round_by_round() -> None:
    json_verdict, png_verdict = cells.judge(results())

    # 0.9, 0.98 and 0.9 of the bare burst of the same round; 0.45, 0.49 and 0.45 for the grid.
    assert json_verdict.found == pytest.approx(0.9)
    assert png_verdict.found == pytest.approx(0.45)
    assert (json_verdict.reached, png_verdict.reached) == (True, False)


def test_the_whole_way_is_told_beside_the_compute_part() -> None:
    made = results()

    assert cells.fraction_of_bare(made, made.cells[0], whole=True) == pytest.approx(700 / 1100)
    assert cells.fraction_of_bare(made, made.cells[0], 1) == pytest.approx(3.6)
    assert cells.fraction_of_bare(made, made.cells[0], 16) is None


def test_the_spread_is_that_of_the_rounds() -> None:
    assert cells.spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)
    assert cells.spread([7.0]) == 0


def test_nothing_measured_is_nothing_reached() -> None:
    assert [verdict.reached for verdict in cells.judge(cells.Results())] == [None, None]


def test_a_run_that_ended_within_a_round_is_judged_by_the_whole_ones() -> None:
    made = results()
    made.add_bare(64, 1.0)

    assert cells.judge(made)[0].found == pytest.approx(0.9)


def test_reports_tell_rates_compute_and_encoding_apart(tmp_path: Path) -> None:
    made, page = results(), io.StringIO()
    verdicts = cells.judge(made)
    generator_report.print_tables(Console(file=page, width=220), made, verdicts)
    parsed = bench_generators.build_parser().parse_args(["--output", str(tmp_path)])
    generator_report.write_files(tmp_path, made, verdicts, parsed)

    markdown = (tmp_path / "generators.md").read_text(encoding="utf-8")
    for text in (page.getvalue(), markdown):
        assert "JSON, 64 a request, 8 callers" in text
        assert "Encoding PNG is apart" in text
        assert "missed" in text
    assert "| 64 | 1,000 | 60% |" in markdown
    assert (
        "| JSON, 64 a request, 8 callers | 600 | 58% | 0.64 | 900 | 56% | 0.90 | 0.125 | 48.0 | 50.0 | 1.40 |"
        in markdown
    )
    values = json.loads((tmp_path / "generators.json").read_text(encoding="utf-8"))
    assert values["cells"][0]["compute_fraction_of_bare"] == pytest.approx(0.9)
    assert values["bare"][1]["rounds"] == [1000, 500, 1100]
    assert [target["reached"] for target in values["targets"]] == [True, False]
    assert str(tmp_path) not in markdown + json.dumps(values)
    assert (tmp_path / "generators.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_measured_nothing_is_reported_too(tmp_path: Path) -> None:
    made = cells.Results("fashion-gan@1")
    parsed = bench_generators.build_parser().parse_args(["--output", str(tmp_path)])

    generator_report.write_files(tmp_path, made, cells.judge(made), parsed)

    assert "not measured" in (tmp_path / "generators.md").read_text(encoding="utf-8")


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    where = ["--repository", str(tmp_path), "--output", str(tmp_path / "o")]
    parsed = bench_generators.build_parser().parse_args(where)

    with pytest.raises(SystemExit, match="train 'fashion-gan' first or pass --repository"):
        bench_generators.Bench(parsed, Console(file=io.StringIO()))
    assert not (tmp_path / "o").exists()


def test_a_model_that_does_not_draw_is_refused(tmp_path: Path) -> None:
    LinearClassifier().write(tmp_path, "tiny")
    where = ["--repository", str(tmp_path), "--output", str(tmp_path / "o")]
    parsed = bench_generators.build_parser().parse_args(["--model", "tiny", *where])

    with pytest.raises(SystemExit, match="'tiny' does image-classification"):
        bench_generators.Bench(parsed, Console(file=io.StringIO()))


def test_bare_runs_a_decoder_that_takes_labels(tmp_path: Path) -> None:
    write_gan(tmp_path)

    with running_bare(tmp_path / "tiny-gan" / "1" / "decoder.onnx") as bare:
        assert bare.run(Burst(16), 0.05).images_per_second > 0


def test_the_whole_plan_has_the_judged_loads() -> None:
    loads = bench_generators.WHOLE.loads

    assert JUDGED in loads
    assert cells.Load("png", 64, 8) in loads
    assert {(load.num_images, load.callers) for load in loads} == {(n, c) for n in (1, 16, 64) for c in (1, 8)}


def test_a_short_run_measures_a_real_service(tmp_path: Path) -> None:
    write_gan(tmp_path / "models")
    where = ["--repository", str(tmp_path / "models"), "--output", str(tmp_path / "reports")]
    parsed = bench_generators.build_parser().parse_args(
        ["--model", "tiny-gan", "--rounds", "2", "--duration", "0.05", *where]
    )
    plan = bench_generators.Plan(batches=(1, 64), num_images=(20,), callers=(2,))
    bench = bench_generators.Bench(parsed, Console(file=io.StringIO()), plan)

    bench.run()

    found = bench.results
    assert (found.model, found.instances, found.threads) == ("tiny-gan@1", 1, 1)
    assert {batch: len(rates) for batch, rates in found.bare.items()} == {1: 2, 64: 2}
    assert [cell.load.format for cell in found.cells] == ["json", "png"]
    for cell in found.cells:
        assert len(cell.rounds) == 2
        for measured_round in cell.rounds:
            assert 0 < measured_round.images_per_second < measured_round.compute_images_per_second
            assert 1 <= measured_round.mean_batch <= 64
            assert measured_round.encode_ms > 0
            assert measured_round.timings.keys() >= {"queue", "compute", "encode", "total"}
    assert bench.scratch.is_relative_to(ROOT)
