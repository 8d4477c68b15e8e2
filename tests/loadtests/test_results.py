"""Cells, medians and ratios, and what counts as reached."""

import pytest

from loadtests.results import Cell, Results, Verdict, ratio


def cell(*rates: float, **case: str | int) -> Cell:
    return Cell(dict(case), [{"rate": rate} for rate in rates])


def test_a_cell_is_the_median_of_its_rounds() -> None:
    assert cell(100.0, 900.0, 800.0).median("rate") == 800.0
    assert cell(100.0).median("p50_ms") is None


def test_rounds_without_a_figure_do_not_count() -> None:
    made = Cell({}, [{"rate": None}, {"rate": 4.0}, {}])

    assert made.median("rate") == 4.0
    assert made.sum("rate") == 4


def test_a_fact_holds_for_the_cell_as_a_whole() -> None:
    assert Cell({}, [], {"body_bytes": 784}).median("body_bytes") == 784.0


def test_the_spread_is_that_of_the_rounds() -> None:
    assert cell(9.0, 10.0, 12.0).spread("rate") == pytest.approx(0.3)
    assert cell(7.0).spread("rate") == 0


def test_ratios_are_taken_round_by_round_because_the_machine_drifts() -> None:
    assert ratio(cell(600.0, 350.0, 700.0), cell(1000.0, 500.0, 1100.0), "rate") == pytest.approx(700 / 1100)


def test_a_run_that_ended_within_a_round_is_judged_by_the_whole_ones() -> None:
    assert ratio(cell(5.0), cell(10.0, 1.0), "rate") == 0.5
    assert ratio(cell(5.0), cell(), "rate") is None
    assert ratio(cell(5.0), None, "rate") is None


def test_cells_are_found_by_their_case() -> None:
    results = Results()
    results.add({"server": "a", "callers": 1}, {"rate": 1.0})
    results.add({"callers": 1, "server": "a"}, {"rate": 2.0}, body_bytes=3)
    results.add({"server": "a", "side": 2}, {"rate": 3.0})

    found = results.cell(server="a", callers=1)

    assert found is not None
    assert (found.values("rate"), found.facts) == ([1.0, 2.0], {"body_bytes": 3})
    assert results.cell(server="a") is None
    assert [each.case for each in results.select("side", server="a")] == [{"server": "a", "side": 2}]


def test_results_are_read_as_they_were_written() -> None:
    results = Results({"light": "x"}, unavailable={"mosec": "no"})
    results.add({"server": "a"}, {"rate": 1.0, "batch_sizes": {"8.0": 3.0}}, body_bytes=3)

    page = results.to_json()

    assert page["cells"][0]["medians"] == {"rate": 1.0}
    assert Results.from_json(page) == results


def test_a_figure_at_the_limit_reaches_the_target_on_both_sides() -> None:
    assert Verdict("a", 0.7, 0.7).reached is True
    assert Verdict("a", 0.7, 0.699).reached is False
    assert Verdict("a", 0.4, 0.4, at_most=True).reached is True
    assert Verdict("a", 0.4, 0.401, at_most=True).reached is False
    assert Verdict("a", 0.4, None).reached is None
