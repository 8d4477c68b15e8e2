"""Fractions of bare, ratios to peers, and the targets."""

from loadtests.measure import PNG, RAW, Cell, Round
from loadtests.targets import HEAVY, LIGHT, SERVICE, Results, ServerFacts, judge, ratio_to
from loadtests.verdict import Verdict


def measured(
    server: str, rates: list[float], concurrency: int = 64, bare: float = 1000.0, media_type: str = RAW
) -> Cell:
    """A cell whose rounds differ in their rate only."""
    rounds = [Round(rate, 1.5, 3.0, 0, 1.0, bare, 1.2 if concurrency == 1 else None, 0.0, None) for rate in rates]
    return Cell(server, LIGHT, media_type, concurrency, rounds)


def test_a_cell_is_the_median_of_its_rounds() -> None:
    cell = measured(SERVICE, [100.0, 900.0, 800.0])
    assert cell.rate == 800.0
    assert cell.fraction_of_bare == 0.8


def test_added_time_is_known_at_concurrency_one_only() -> None:
    alone = measured(SERVICE, [500.0], concurrency=1).added_ms
    assert alone is not None
    assert round(alone, 6) == 0.3
    assert measured(SERVICE, [500.0]).added_ms is None


def test_ratios_compare_fractions_of_bare_because_the_machine_drifts() -> None:
    results = Results(cells=[measured(SERVICE, [800.0]), measured("mosec", [400.0], bare=500.0)])
    assert ratio_to(results, ["mosec"]) == 1.0


def test_the_best_variant_of_a_peer_counts() -> None:
    cells = [
        measured(SERVICE, [800.0]),
        measured("plain fastapi sync", [200.0]),
        measured("plain fastapi async", [400.0]),
    ]
    assert ratio_to(Results(cells=cells), ["plain fastapi sync", "plain fastapi async"]) == 2.0


def test_a_figure_at_the_limit_reaches_the_target_on_both_sides() -> None:
    assert Verdict("a", 0.7, 0.7).reached is True
    assert Verdict("a", 0.7, 0.699).reached is False
    assert Verdict("a", 0.4, 0.4, at_most=True).reached is True
    assert Verdict("a", 0.4, 0.401, at_most=True).reached is False


def test_nothing_measured_is_nothing_reached() -> None:
    assert {verdict.reached for verdict in judge(Results())} == {None}


def test_every_target_is_judged_when_all_was_measured() -> None:
    heavy = Cell(SERVICE, HEAVY, RAW, 16, [Round(57.0, 250.0, 400.0, 0, 2.0, 60.0, None, 0.0, None)])
    cells = [
        measured(SERVICE, [750.0]),
        measured(SERVICE, [500.0], concurrency=1),
        measured(SERVICE, [390.0], media_type=PNG),
        measured("plain fastapi sync", [200.0]),
        measured("litserve", [100.0]),
        measured("mosec", [600.0]),
        heavy,
    ]
    facts = [ServerFacts(SERVICE, LIGHT, 1.0, 0.005, 100.0, 90.0)]
    verdicts = judge(Results(cells=cells, servers=facts, batching_ratios=[0.9, 0.97, 0.99]))
    missed = [verdict.goal for verdict in verdicts if verdict.reached is False]
    assert all(verdict.reached is not None for verdict in verdicts)
    assert missed == ["PNG, 64 callers: fraction of bare, 1 thread"]
