"""Limits, the knee, and what a run that goes beyond the limit on purpose is judged by."""

import pytest

from loadtests.scenarios.catalog import CLASSIFY, COMPLETE
from loadtests.scenarios.levels import Level, Tally
from loadtests.scenarios.shapes import SHAPES
from loadtests.scenarios.thresholds import Thresholds, check_level, find_knee, judge

LIMITS = Thresholds(limits_ms={CLASSIFY: 100.0, COMPLETE: 50.0}, max_failure_ratio=0.01)


def level(users: int, milliseconds: float, requests: int = 200, failures: int = 0) -> Level:
    tally = Tally()
    for _ in range(requests):
        tally.add(CLASSIFY, milliseconds, ok=True)
    for _ in range(failures):
        tally.add(CLASSIFY, 1.0, ok=False)
    return Level(users, 10.0, tally)


def test_the_knee_is_the_last_level_before_the_first_that_misses_a_limit() -> None:
    levels = [level(4, 10, 100), level(8, 40, 190), level(16, 150, 200), level(32, 30, 250)]

    knee = find_knee(levels, LIMITS)

    assert knee is not None
    assert (knee.users, knee.requests_per_second, knee.failed_at) == (8, 19.0, 16)
    assert knee.describe().startswith("Sustains 19.0 requests/s (8 users)")
    assert "not 16 users: classify: p99 latency, ms is 150" in knee.describe()


def test_without_a_miss_the_knee_lies_beyond_what_was_tried() -> None:
    knee = find_knee([level(4, 10), level(8, 20)], LIMITS)

    assert knee is not None
    assert knee.failed_at is None
    assert knee.describe().startswith("Sustains at least 20.0 requests/s")


def test_a_first_level_that_misses_sustains_nothing() -> None:
    knee = find_knee([level(4, 500)], LIMITS)

    assert knee is not None
    assert (knee.users, knee.requests_per_second) == (0, 0.0)
    assert knee.describe().startswith("Not even 4 users are sustained")


def test_failures_end_what_is_sustained() -> None:
    knee = find_knee([level(4, 10), level(8, 10, requests=90, failures=10)], LIMITS)

    assert knee is not None
    assert knee.users == 4
    assert "failure ratio is 0.1" in knee.reason


def test_a_task_that_only_failed_does_not_pass() -> None:
    checks = check_level(level(4, 10, requests=0, failures=5), LIMITS)

    assert [check.reached for check in checks] == [False, None]
    assert checks[1].found is None


def test_a_run_without_any_reply_does_not_pass() -> None:
    assert not all(check.reached for check in judge(Level(0), [], LIMITS, finds_limit=False))


@pytest.mark.parametrize(("finds_limit", "passes"), [(True, True), (False, False)])
def test_only_a_shape_that_looks_for_the_limit_may_exceed_it(finds_limit: bool, passes: bool) -> None:
    levels = [level(4, 10), level(8, 500)]
    whole = Level(8, 20.0, Tally())
    for part in levels:
        whole.tally.merge(part.tally)

    checks = judge(whole, levels, LIMITS, finds_limit=finds_limit)

    assert all(check.reached for check in checks) is passes


def test_a_least_rate_must_be_sustained_not_merely_reached() -> None:
    levels = [level(4, 10, 100), level(8, 500, 400)]
    demanding = Thresholds(limits_ms=LIMITS.limits_ms, min_requests_per_second=20.0)

    missed = [check.goal for check in judge(levels[1], levels, demanding, finds_limit=True) if not check.reached]

    assert missed == ["requests/s"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_its_time_and_then_ends(name: str) -> None:
    shape = SHAPES[name]

    users = [shape.users_at(second, 60, 50) for second in range(60)]

    assert None not in users
    assert max(number or 0 for number in users) == 50
    assert shape.users_at(60.1, 60, 50) is None
    assert sum(stage.time for stage in shape.stages) == pytest.approx(1.0)


def test_the_shapes_differ_as_their_names_say() -> None:
    at = {name: [shape.users_at(second, 100, 100) for second in range(100)] for name, shape in SHAPES.items()}

    assert set(at["smoke"]) == set(at["soak"]) == {100}
    assert at["steps"] == sorted(at["steps"], key=lambda number: number or 0)
    assert len(set(at["steps"])) == 6
    assert (at["spike"][10], at["spike"][50], at["spike"][90]) == (10, 100, 10)
