"""The benchmark of generators: its figures, targets and tables, and a short run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench_generators
from loadtests.bare import Burst, running_bare
from loadtests.bench_generators import GeneratorBench, judge, of_bare
from loadtests.results import BARE, SERVICE, Case, Results
from tests.fake_models.image_generation import write_gan


def case(kind: str, num_images: int = 64, callers: int = 8) -> Case:
    return {"server": SERVICE, "format": kind, "num_images": num_images, "callers": callers}


def results() -> Results:
    """A run whose second round was slow for everybody."""
    made = Results({"model": "fashion-gan@1", "instances": 1, "threads": 1})
    for bare in (1000.0, 500.0, 1100.0):
        made.add({"server": BARE, "batch": 64}, {"images_per_second": bare})
        made.add({"server": BARE, "batch": 1}, {"images_per_second": bare / 4})
    for rate, compute in ((600.0, 900.0), (350.0, 490.0), (700.0, 990.0)):
        figures = {"encode_ms_per_image": 0.125, "mean_batch_size": 48.0, "p50_ms": 50.0, "cpu_cores": 1.4}
        rates = {"images_per_second": rate, "compute_images_per_second": compute}
        made.add(case("json"), figures | rates)
        made.add(case("png"), figures | {name: value / 2 for name, value in rates.items()})
    return made


def test_the_target_is_held_against_bare_round_by_round() -> None:
    json_verdict, png_verdict = judge(results())

    # 0.9, 0.98 and 0.9 of the bare burst of the same round; 0.45, 0.49 and 0.45 for the grid.
    assert json_verdict.found == pytest.approx(0.9)
    assert png_verdict.found == pytest.approx(0.45)
    assert (json_verdict.reached, png_verdict.reached) == (True, False)


def test_the_whole_way_is_reported_beside_the_compute_part() -> None:
    made = results()
    markdown = GeneratorBench.report.markdown(
        {"machine": {"finished": "", "load_average": [], "libraries": {}, "cpu": "", "cores": 1, "python": ""}}
        | made.to_json()
    )

    assert of_bare(made, made.cell(**case("json")), "images_per_second") == pytest.approx(700 / 1100)
    assert "| 64 | 1,000 | 60% |" in markdown
    row = "| JSON, 64 a request, 8 callers | 600 | 58% | 0.64 | 900 | 56% | 0.90 | 0.125 | 48.0 | 50.0 | 1.40 |"
    assert row in markdown
    assert "Encoding PNG is apart" in markdown


def test_bare_runs_a_decoder_that_takes_labels(tmp_path: Path) -> None:
    write_gan(tmp_path)

    with running_bare(tmp_path / "tiny-gan" / "1" / "decoder.onnx") as bare:
        assert bare.run(Burst(16, seconds=0.05)).images_per_second > 0


def test_a_whole_run_has_the_judged_loads() -> None:
    bench = GeneratorBench

    assert (64 in bench.batches, 64 in bench.num_images, 8 in bench.callers) == (True, True, True)


def test_a_short_run_measures_a_real_service(tmp_path: Path) -> None:
    write_gan(tmp_path / "models")
    where = ["--repository", str(tmp_path / "models"), "--output", str(tmp_path / "reports")]
    parsed = ["--model", "tiny-gan", "--rounds", "2", "--duration", "0.05", *where]
    bench = GeneratorBench(bench_generators.make_parser().parse_args(parsed), Console(file=io.StringIO()))
    bench.batches, bench.num_images, bench.callers = (1, 64), (20,), (2,)

    bench.measure()

    found = bench.results
    assert found.facts == {"model": "tiny-gan@1", "instances": 1, "threads": 1}
    assert {cell.case["batch"]: len(cell.rounds) for cell in found.select("batch", server=BARE)} == {1: 2, 64: 2}
    served = found.select("callers")
    assert [cell.case["format"] for cell in served] == ["json", "png"]
    for figures in (each for cell in served for each in cell.rounds):
        assert 0 < figures["images_per_second"] < figures["compute_images_per_second"]
        assert 1 <= figures["mean_batch_size"] <= 64
        assert figures["encode_ms_per_image"] > 0
        assert figures.keys() >= {"queue_ms", "compute_ms", "encode_ms", "total_ms"}
    assert all(len(cell.rounds) == 2 for cell in served)
