"""The benchmark of serving: its targets, its tables, and a short run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench, flame
from loadtests.bench import ServingBench
from loadtests.bodies import BINARY, GRPC, JSON, PNG, RAW
from loadtests.networks import IDENTITY, LIGHT, LIGHT_FP32, MEAN
from loadtests.results import BARE, EMPTY, SERVICE, Case, Cell, Results
from loadtests.serving_report import (
    EARLIER,
    HEAVY,
    PEER_NAMES,
    SINGLE,
    STREAM,
    WRITERS,
    judge,
    ratio_beside,
    ratio_to,
)


def add(results: Results, server: str, rate: float, callers: int = 64, bare: float = 1000.0, **case: str) -> Cell:
    """Add a round of a load; on the light model in binary data, where the case says nothing else."""
    figures = {"requests_per_second": rate, "tokens_per_second": rate, "fraction_of_bare": rate / bare}
    figures |= {"fraction_of_all_cores": rate / bare, "p50_ms": 1000 / rate, "p99_over_p50": 1.9, "num_errors": 0}
    figures |= {"added_ms": 0.3, "beside_us": 79.0, "bare_spread": 0.0}
    whole: Case = {"server": server, "model": LIGHT_FP32, "form": BINARY, "callers": callers}
    return results.add(whole | case, figures)


def test_peers_are_compared_by_their_fractions_of_bare_because_the_machine_drifts() -> None:
    results = Results()
    add(results, SERVICE, 800.0)
    add(results, "mosec", 400.0, bare=500.0)

    assert ratio_to(results, "mosec") == 1.0


def test_the_best_variant_of_a_peer_counts() -> None:
    results = Results()
    add(results, SERVICE, 800.0)
    for name, rate in zip(PEER_NAMES["plain"], (200.0, 400.0), strict=True):
        add(results, name, rate)

    assert ratio_to(results, "plain") == 2.0


def test_another_service_is_compared_with_round_by_round() -> None:
    results = Results()
    for ours, theirs in ((100.0, 50.0), (300.0, 100.0), (210.0, 100.0)):
        cell = add(results, SERVICE, ours, beside=EARLIER)
        add(results, EARLIER, theirs, beside=EARLIER)

    assert ratio_beside(results, cell) == 2.1
    assert ratio_beside(results, None) is None


def test_every_target_is_judged_when_all_was_measured() -> None:
    results = Results()
    for server, rate in (("mosec", 600.0), (PEER_NAMES["plain"][0], 200.0), ("litserve", 100.0), (SERVICE, 750.0)):
        add(results, server, rate)
    for callers in (1, 16):
        add(results, SERVICE, 700.0, callers=callers)
    add(results, SERVICE, 750.0, model=LIGHT, form=RAW)
    add(results, SERVICE, 490.0, form=GRPC)
    for form, rate in ((JSON, 50.0), (BINARY, 100.0)):
        add(results, SERVICE, rate, callers=1, model=MEAN, form=form)
    add(results, SERVICE, 970.0, callers=16, model=HEAVY, form=RAW)
    results.add({"server": SERVICE, "model": LIGHT_FP32, "state": "idle"}, {"idle_cores": 0.005, "pss_mib": 180.0})
    compared = [(SINGLE, LIGHT_FP32, BINARY, 1), (EARLIER, LIGHT_FP32, JSON, 64), (EARLIER, LIGHT, PNG, 64)]
    for other, model, form, callers in [*compared, *((EARLIER, model, STREAM, 16) for model in WRITERS)]:
        add(results, SERVICE, 200.0, callers=callers, model=model, form=form, beside=other)
        add(results, other, 100.0, callers=callers, model=model, form=form, beside=other)

    verdicts = judge(results)

    assert all(verdict.reached is not None for verdict in verdicts)
    missed = [verdict.goal for verdict in verdicts if verdict.reached is False]
    assert missed == ["gRPC, 64 callers: the same"]


def test_tables_show_what_was_reached_and_what_was_not_measured() -> None:
    results, page = Results(unavailable={"mosec": "pip failed: no such package"}), io.StringIO()
    served = add(results, SERVICE, 750.0)
    served.rounds[0] |= {"batch_sizes": {"8.0": 3.0, "32.0": 1.0}, "bare_spread": 0.3}
    add(results, "litserve", 100.0)
    figures = {"requests_per_second": 5000.0, "engine_us": 50.0}
    results.add({"server": SERVICE, "model": IDENTITY, "workers": 2, "cores": "shared"}, figures)

    ServingBench.report.show(Console(file=page, width=250), results)

    text = page.getvalue()
    assert "reached" in text
    assert "not measured" in text
    assert "hotplate over litserve, light-cnn-fp32, binary, 64 callers: 7.50" in text
    assert "Not measured: mosec: pip failed: no such package" in text
    assert "<=8:75%" in text
    assert "20,000" in text  # requests a second that would fill the engine's core
    assert "1 of 2 rounds lie between bare bursts that differ by more than 15%" in text


def make_bench(tmp_path: Path, *words: str) -> ServingBench:
    """A run as short as can be."""
    options = bench.make_parser().parse_args(["--quick", "--output", str(tmp_path), *words])
    run = ServingBench(options, Console(file=io.StringIO()))
    run.seconds, run.burst_seconds, run.callers = 0.5, 0.05, (16,)
    return run


@pytest.mark.wrk
def test_a_short_run_measures_the_service_between_bare_bursts(tmp_path: Path) -> None:
    run = make_bench(tmp_path, "--only", "empty", "service", "commit", "--serve-flags=--instances 1")

    run.measure()

    results = run.results
    assert [(cell.case["server"], cell.case["form"]) for cell in results.select("callers")] == [
        *((SERVICE, form) for form in (JSON, BINARY, GRPC, RAW, PNG)),
        *((EMPTY, form) for form in (BINARY, GRPC)),
    ]
    for cell in results.select("callers"):
        assert cell.median("fraction_of_bare") > 0  # type: ignore[operator]
        assert cell.sum("num_errors") == 0
    for cell in results.select("callers", server=SERVICE):
        parts = [cell.median(figure) for figure in ("api_us", "engine_us")]
        assert 0 < sum(parts) <= cell.median("cpu_us")  # type: ignore[arg-type, operator]
    assert {cell.case["batch"] for cell in results.select("batch", server=BARE, model=LIGHT)} == {1, 8, 32, 64}
    assert {cell.case["server"] for cell in results.select(state="idle")} == {EMPTY, SERVICE}
    assert EARLIER in results.unavailable


@pytest.mark.wrk
@pytest.mark.slow
def test_the_service_is_measured_beside_an_earlier_commit_and_its_engine_filled(tmp_path: Path) -> None:
    run = make_bench(tmp_path, "--only", "commit", "saturation", "--commit", "HEAD")

    run.measure()

    compared = run.results.select(server=SERVICE, beside=EARLIER)
    assert [cell.case["form"] for cell in compared] == [JSON, BINARY, GRPC, RAW, PNG, STREAM, STREAM]
    assert all((ratio_beside(run.results, cell) or 0) > 0 for cell in compared)
    assert [cell.case["workers"] for cell in run.results.select(cores="shared")] == [1, 2, 4]


@pytest.mark.wrk
@pytest.mark.slow
def test_a_flame_graph_is_drawn_of_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["flame", "--seconds", "2", "--output", str(tmp_path)])

    assert flame.main() == 0
    files = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert set(files) == {"flame-api-now.svg", "flame-engine-now.svg"}
    assert all("<svg" in text and "service/" in text for text in files.values())
