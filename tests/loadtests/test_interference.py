"""What requests take beside others: the figures of made-up runs, and a short run of the real thing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadtests.interference import (
    ALONE,
    BOTH,
    CLASSIFIERS,
    CLASSIFY,
    PAINT,
    PROMPTS,
    STREAM,
    Interference,
    judge,
    make_parser,
    make_sheets,
)
from loadtests.results import SERVICE, Results


def results(times_slower: float) -> Results:
    found = Results()
    for kind, beside in ((CLASSIFY, BOTH), (STREAM, PROMPTS), (PAINT, CLASSIFIERS)):
        for company, factor in ((ALONE, 1.0), (beside, times_slower)):
            figures = {"p50_ms": 10 * factor, "p99_ms": 20 * factor, "per_second": 100 / factor}
            found.add({"server": SERVICE, "kind": kind, "beside": company}, figures)
    return found


@pytest.mark.parametrize(("times_slower", "reached"), [(1.2, [True] * 3), (1.8, [False, True, True]), (3, [False] * 3)])
def test_what_is_beside_others_is_held_against_what_it_is_alone(times_slower: float, reached: list[bool]) -> None:
    verdicts = judge(results(times_slower))

    assert [verdict.reached for verdict in verdicts] == reached
    assert [verdict.found for verdict in verdicts] == pytest.approx([times_slower] * 3)


def test_the_table_says_how_much_slower_each_is() -> None:
    (sheet,) = make_sheets(results(2.5))

    assert [row[4] for row in sheet.rows] == ["1.00", "2.50"] * 3


@pytest.mark.slow
def test_a_short_run_measures_a_real_service() -> None:
    options = make_parser().parse_args(["--rounds", "1", "--duration", "1", "--only", "classify"])
    bench = Interference(options, Console(file=io.StringIO()))

    bench.measure()

    cells = bench.results.select("kind")
    assert len(cells) == 4
    for cell in cells:
        assert 0 < (cell.median("p50_ms") or 0) <= (cell.median("p99_ms") or 0)
