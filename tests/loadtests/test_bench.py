"""The benchmark of classification: its targets, its tables, and a short run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench
from loadtests.bench import HEAVY, LIGHT, ClassifierBench, judge, ratio_to
from loadtests.results import BARE, EMPTY, SERVICE, Cell, Results


def add(results: Results, server: str, rate: float, callers: int = 64, bare: float = 1000.0, body: str = "raw") -> Cell:
    """Add a round of a load on the light model."""
    figures = {"requests_per_second": rate, "fraction_of_bare": rate / bare, "num_errors": 0, "bare_spread": 0.0}
    figures["added_ms"] = 0.3
    return results.add({"server": server, "model": LIGHT, "body": body, "callers": callers}, figures)


def test_peers_are_compared_by_their_fractions_of_bare_because_the_machine_drifts() -> None:
    results = Results()
    add(results, SERVICE, 800.0)
    add(results, "mosec", 400.0, bare=500.0)

    assert ratio_to(results, "mosec") == 1.0


def test_the_best_variant_of_a_peer_counts() -> None:
    results = Results()
    add(results, SERVICE, 800.0)
    add(results, "plain fastapi sync", 200.0)
    add(results, "plain fastapi async", 400.0)

    assert ratio_to(results, "plain") == 2.0


def test_every_target_is_judged_when_all_was_measured() -> None:
    results = Results()
    for server, rate in ((SERVICE, 750.0), ("plain fastapi sync", 200.0), ("litserve", 100.0), ("mosec", 600.0)):
        add(results, server, rate)
    add(results, SERVICE, 500.0, callers=1)
    add(results, SERVICE, 390.0, body="PNG")
    results.add({"server": SERVICE, "model": HEAVY, "body": "raw", "callers": 16}, {"fraction_of_bare": 0.95})
    results.add({"server": SERVICE, "model": LIGHT, "state": "idle"}, {"idle_cores": 0.005})
    for kept in (0.9, 0.97, 0.99):
        case = {"server": SERVICE, "model": LIGHT, "compared": "batches over max batch 1"}
        results.add(case, {"rate_ratio": kept})

    verdicts = judge(results)

    assert all(verdict.reached is not None for verdict in verdicts)
    missed = [verdict.goal for verdict in verdicts if verdict.reached is False]
    assert missed == ["PNG, 64 callers: fraction of bare, 1 thread"]


def test_tables_show_what_was_reached_and_what_was_not_measured() -> None:
    results, page = Results(unavailable={"mosec": "pip failed: no such package"}), io.StringIO()
    served = add(results, SERVICE, 750.0)
    served.rounds[0] |= {"batch_sizes": {"8.0": 3.0, "32.0": 1.0}, "bare_spread": 0.3}
    add(results, "litserve", 100.0)

    ClassifierBench.report.show(Console(file=page, width=170), results)

    text = page.getvalue()
    assert "reached" in text
    assert "not measured" in text
    assert "hotplate over litserve, fashion-mnist, raw, 64 callers: 7.50" in text
    assert "Not measured: mosec: pip failed: no such package" in text
    assert "<=8:75%" in text
    assert "1 of 2 rounds lie between bare bursts that differ by more than 15%" in text


@pytest.mark.wrk
def test_a_short_run_measures_the_service_between_bare_bursts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CALLERS", (1, 16))
    parsed = ["--quick", "--light", "small-resnet", "--only", "empty", "service", "--output", str(tmp_path)]
    options = bench.make_parser().parse_args([*parsed, "--serve-flags=--instances 1"])
    run = ClassifierBench(options, Console(file=io.StringIO()))
    run.seconds, run.burst_seconds = 0.5, 0.05

    run.measure()

    results = run.results
    cases = [(cell.case["server"], cell.case["body"], cell.case["callers"]) for cell in results.select("callers")]
    assert cases == [
        *((EMPTY, "raw", callers) for callers in (1, 16)),
        *((SERVICE, body, callers) for body in ("raw", "PNG") for callers in (1, 16)),
    ]
    assert all(cell.median("fraction_of_bare") > 0 for cell in results.select("callers"))  # type: ignore[operator]
    assert all(cell.sum("num_errors") == 0 for cell in results.select("callers"))
    assert len(results.select("batch", server=BARE)) == 8
    assert {cell.case["server"] for cell in results.select(state="idle")} == {EMPTY, SERVICE}
