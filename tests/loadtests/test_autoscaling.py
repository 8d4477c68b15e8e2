"""The autoscaling rule against the published formula, and what the simulated day must obey."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loadtests import autoscaling
from loadtests.autoscaling_day import (
    IN_FLIGHT,
    Autoscaler,
    Behavior,
    Direction,
    Plan,
    Pod,
    Policy,
    Signal,
    Traffic,
    desired_replicas,
    metric_value,
    simulate,
)

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("current", "value", "target", "wanted"),
    [
        (1, 200.0, 100.0, 2),  # the two examples of the documentation
        (2, 50.0, 100.0, 1),
        (50, 90.0, 75.0, 60),
        (4, 80.0, 70.0, 5),
        (5, 71.0, 70.0, 5),  # within the tolerance
        (10, 77.0, 70.0, 10),  # a ratio of exactly 1.1
        (10, 63.0, 70.0, 10),  # and of 0.9
        (10, 62.0, 70.0, 9),
    ],
)
def test_the_wanted_number_follows_the_published_formula(
    current: int, value: float, target: float, wanted: int
) -> None:
    assert desired_replicas(current, [value] * current, target) == wanted


@given(st.integers(1, 100), st.floats(0, 500), st.floats(1, 200))
def test_ceil_of_the_ratio_holds_everywhere_outside_the_tolerance(current: int, value: float, target: float) -> None:
    wanted = desired_replicas(current, [value] * current, target)

    if abs(value / target - 1) <= 0.1 - 1e-9:
        assert wanted == current
    elif abs(value / target - 1) > 0.1 + 1e-9:
        assert wanted in (math.ceil(current * value / target - 1e-6), math.ceil(current * value / target + 1e-6))


def test_pods_on_their_way_are_not_ordered_twice() -> None:
    assert desired_replicas(2, [140.0, 140.0], 70) == 4
    assert desired_replicas(4, [140.0, 140.0], 70, num_unready=2) == 4
    assert desired_replicas(4, [210.0, 210.0], 70, num_unready=2) == 6


def test_pods_without_a_value_count_as_busy_when_fewer_are_wanted() -> None:
    assert desired_replicas(4, [35.0, 35.0], 70, num_missing=2) == 3
    assert desired_replicas(2, [35.0, 35.0], 70) == 1


def test_without_any_value_nothing_changes() -> None:
    assert desired_replicas(3, [], 70) == 3


def test_going_down_waits_until_the_whole_window_agrees() -> None:
    scaler = Autoscaler(Behavior(min_replicas=1, down=Direction(300, (Policy(100, 15, True),))))

    decided = [scaler.decide(now, 8, 8 if now < 60 else 2) for now in range(0, 375, 15)]

    assert decided[: (60 + 300) // 15 - 1] == [8] * 23  # the last 8 was asked for at 45 s
    assert decided[-2:] == [2, 2]


def test_a_window_upwards_takes_the_least_of_it() -> None:
    scaler = Autoscaler(Behavior(min_replicas=1, up=Direction(60, (Policy(900, 15, True),))))

    assert [scaler.decide(now, 2, wanted) for now, wanted in ((0, 2), (15, 9), (30, 9), (45, 6), (75, 9))] == [
        2,
        2,
        2,
        2,
        6,
    ]


def test_policies_bound_the_change_of_a_period_and_the_largest_counts() -> None:
    scaler, current, seen = Autoscaler(Behavior(max_replicas=100)), 2, []
    for now in range(0, 120, 15):
        current = scaler.decide(now, current, 100)
        seen.append(current)

    # 100 % or 2 pods in 30 s, looked at every 15 s
    assert seen == [4, 4, 8, 8, 16, 16, 32, 32]


def test_going_down_a_quarter_a_minute_rounds_down() -> None:
    scaler, current, seen = Autoscaler(Behavior(min_replicas=2, down=Direction(0, (Policy(25, 60, True),)))), 10, []
    for now in range(0, 300, 60):
        current = scaler.decide(now, current, 1)
        seen.append(current)

    assert seen == [7, 5, 3, 2, 2]


def test_the_bounds_hold_whatever_is_asked() -> None:
    scaler = Autoscaler(Behavior(min_replicas=2, max_replicas=5))

    assert scaler.decide(0, 4, 50) == 5
    assert Autoscaler(Behavior(down=Direction(0, (Policy(100, 15, True),)))).decide(0, 4, 0) == 2


def test_the_defaults_are_those_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "helm" / "hotplate" / "values.yaml").read_text())
    scaling, behavior, pod = values["autoscaling"], Behavior(), Pod()

    def policies(direction: Direction) -> list[dict[str, object]]:
        return [
            {"type": "Percent" if p.is_percent else "Pods", "value": p.value, "periodSeconds": p.period_seconds}
            for p in direction.policies
        ]

    assert (behavior.min_replicas, behavior.max_replicas) == (scaling["minReplicas"], scaling["maxReplicas"])
    assert Signal().target == scaling["cpu"]["targetUtilizationPercentage"]
    for scaler in ("autoscaling", "keda"):
        assert IN_FLIGHT.target == float(values[scaler]["inFlight"]["targetPerPod"])
    for direction, name in ((behavior.up, "scaleUp"), (behavior.down, "scaleDown")):
        assert direction.stabilization_seconds == scaling["behavior"][name]["stabilizationWindowSeconds"]
        assert policies(direction) == scaling["behavior"][name]["policies"]
    assert pod.requested_cores == float(values["resources"]["requests"]["cpu"])
    assert pod.cores == float(values["resources"]["limits"]["cpu"])


def test_cpu_is_reported_in_percent_of_what_is_requested() -> None:
    assert metric_value(Signal(), Pod(cores=2, requested_cores=1), 0.35, 0.0) == pytest.approx(70)


def test_requests_in_flight_follow_littles_law() -> None:
    pod = Pod(requests_per_second=100, idle_seconds=0.02)

    assert metric_value(Signal("in flight"), pod, 0.5, 0.0) == pytest.approx(50 * 0.04)
    assert metric_value(Signal("in flight"), pod, 0.5, 1.0) == pytest.approx(50 * 1.04)


def test_steady_traffic_ends_at_the_number_that_meets_the_target() -> None:
    calm = Traffic(night=200, noon=200, spike=0)
    day = simulate(Plan("steady", traffic=calm, pod=Pod(requests_per_second=100, requested_cores=2)), 3600)

    # 200 a second over pods of 100 at 70 %: 2.86, so 3; at most a tolerance less
    assert day.wanted[-1] == 3
    assert day.late == 0.0 or day.late < day.arrived * 0.05


def test_no_request_vanishes() -> None:
    overload = Traffic(night=500, noon=500, spike=0)
    day = simulate(Plan("overload", behavior=Behavior(max_replicas=2), traffic=overload), 600)

    capacity = 2 * day.plan.pod.requests_per_second
    waiting = day.wait_seconds[-1] * capacity
    assert day.arrived == pytest.approx(day.refused + waiting + capacity * 600, rel=1e-6)
    assert max(day.wait_seconds) <= day.plan.pod.deadline_seconds


def test_a_slower_start_lets_more_of_a_spike_through() -> None:
    def late(start_seconds: float) -> float:
        spike = Traffic(night=70, noon=70, spike=430, spike_hour=0.25)
        return simulate(Plan("spike", traffic=spike, pod=Pod(start_seconds=start_seconds)), 2400).late

    assert 0 < late(10) < late(60) < late(180)


def test_the_command_writes_a_chart_and_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autoscaling.main(["--hours", "6", "--output", str(tmp_path)]) == 0

    assert (tmp_path / "autoscaling.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "autoscaling.png").stat().st_size < 150_000
    assert "as in the chart" in (tmp_path / "autoscaling.json").read_text()
    assert "a day of traffic" in capsys.readouterr().out


def row_of(name: str) -> list[str]:
    """The figures of a day on the page about scaling, as they are written."""
    page = (ROOT / "helm" / "SCALING.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.split()[0] for cell in row.split("|")[2:-1]]


def test_the_page_has_a_row_for_each_day_that_is_compared() -> None:
    assert all(len(row_of(plan.name)) == 4 for plan in autoscaling.plans_of(Pod(), Traffic()))


@pytest.mark.parametrize("plan", [Plan("CPU 70 %, as in the chart"), Plan("in flight, 4 a pod", signals=(IN_FLIGHT,))])
def test_the_page_says_of_the_chart_s_signals_what_the_simulation_finds(plan: Plan) -> None:
    day = simulate(plan)

    found = (100 * day.late / day.arrived, 100 * day.refused / day.arrived, max(day.wait_seconds), day.pod_hours)
    for figure, written in zip(found, row_of(plan.name), strict=True):
        decimals = len(written.partition(".")[2])
        assert figure == pytest.approx(float(written), abs=0.501 * 10.0**-decimals)
