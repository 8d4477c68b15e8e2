"""`python -m loadtests.autoscaling`: replays a day of traffic against the chart's autoscaling, as a simulation.

Requests are a fluid that flows through pods of a measured rate; the rule is that of Kubernetes. It shows how far the
metric's lag and the start of a pod let a spike through. The rates come from load tests, everything else is assumed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from loadtests.autoscaling_day import DAY_SECONDS, IN_FLIGHT, Day, Plan, Pod, Signal, Traffic, simulate
from loadtests.servers import ROOT

_COLOURS = ("#c8501e", "#3d5a80", "#8d6a9f", "#3b7a57", "#8a9aa8", "#d9a441", "#5fb0b7", "#222222")
_STEP = 60


def plans_of(pod: Pod, traffic: Traffic) -> list[Plan]:
    """The days to compare: the chart's default, variations of it, and a fleet that never changes."""
    base = Plan("CPU 70 %, as in the chart", pod=pod, traffic=traffic)
    cpu, late = Signal(), Signal(lag_seconds=90)
    few, many = IN_FLIGHT, replace(IN_FLIGHT, target=16.0)
    most = math.ceil(max(map(traffic.rate, range(DAY_SECONDS))) / pod.requests_per_second / 0.7)
    fixed = replace(base.behavior, min_replicas=most, max_replicas=most)
    return [
        base,
        replace(base, name="in flight, 16 a pod", signals=(many,)),
        replace(base, name="in flight, 4 a pod", signals=(few,)),
        replace(base, name="CPU 70 % and in flight, 4 a pod", signals=(cpu, few)),
        replace(base, name="CPU 70 %, start in 2 min", pod=replace(pod, start_seconds=120.0)),
        replace(base, name="CPU 70 %, metric 90 s late", signals=(late,)),
        replace(base, name="CPU 70 %, at least 5 pods", behavior=replace(base.behavior, min_replicas=5)),
        replace(base, name=f"always {most} pods", behavior=fixed),
    ]


def print_days(days: Sequence[Day], console: Console) -> None:
    """Print the days beside each other."""
    table = Table(title="a day of traffic")
    table.add_column("autoscaling")
    for name in ("late %", "refused %", "longest wait s", "most pods", "pod hours"):
        table.add_column(name, justify="right")
    for day in days:
        page = day.to_json()
        figures = (100 * day.late / day.arrived, 100 * day.refused / day.arrived, max(day.wait_seconds))
        table.add_row(day.plan.name, *(f"{f:.2f}" for f in figures), str(page["most_pods"]), f"{day.pod_hours:.0f}")
    console.print(table)


def _draw_capacity(axes: Axes, day: Day) -> None:
    hours = [second / 3600 for second in range(0, len(day.rate), _STEP)]
    capacity = [ready * day.plan.pod.requests_per_second for ready in day.ready[::_STEP]]
    axes.fill_between(hours, capacity, color="#dde5ec", step="post", label="ready pods can answer")
    axes.plot(hours, day.rate[::_STEP], color=_COLOURS[0], linewidth=1.2, label="requests")
    axes.set_title(day.plan.name)
    axes.set_ylabel("requests/s")
    axes.set_xlabel("hour")
    axes.legend(fontsize=8, loc="lower center")


def _draw_pods(axes: Axes, days: Sequence[Day]) -> None:
    """The first day, the calmest fleet, and the most restless one."""
    hours = [second / 3600 for second in range(0, len(days[0].rate), _STEP)]
    restless = max(days, key=lambda day: sum(a != b for a, b in pairwise(day.wanted)))
    for day, colour in zip(days, _COLOURS, strict=False):
        if day in (days[0], days[-1], restless):
            axes.step(hours, day.wanted[::_STEP], color=colour, linewidth=1, where="post", label=day.plan.name)
    axes.set_title("pods")
    axes.set_xlabel("hour")
    axes.legend(fontsize=8)
    axes.set_ylim(bottom=0)


def _draw_spike(axes: Axes, days: Sequence[Day]) -> None:
    """The wait at the beginning of the spike."""
    start = int(days[0].plan.traffic.spike_hour * 3600) - 60
    span = range(start, start + 780)
    for day, colour in zip(days, _COLOURS, strict=False):
        waits = [day.wait_seconds[second] for second in span]
        axes.plot([second - start - 60 for second in span], waits, color=colour, label=day.plan.name)
    axes.set_title("wait for a free pod at the spike")
    axes.set_xlabel("seconds after its beginning")
    axes.set_ylabel("s")
    axes.legend(fontsize=8, loc="upper right")


def draw(path: Path, days: Sequence[Day]) -> None:
    """Write the chart as PNG; the first day is the one shown in full."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    _draw_capacity(axes[0], days[0])
    _draw_pods(axes[1], days)
    _draw_spike(axes[2], days)
    figure.savefig(path, dpi=80)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print and draw; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.autoscaling", description=__doc__)
    parser.add_argument("--rate", type=float, default=Pod().requests_per_second, help="Requests/s of a saturated pod.")
    parser.add_argument("--start-seconds", type=float, default=Pod().start_seconds, help="From the order to ready.")
    parser.add_argument("--hours", type=int, default=24, help="How much of the day is replayed.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "autoscaling", help="Folder for PNG and JSON.")
    options = parser.parse_args(arguments)
    pod = Pod(requests_per_second=options.rate, start_seconds=options.start_seconds)
    days = [simulate(plan, options.hours * 3600) for plan in plans_of(pod, Traffic())]
    print_days(days, Console())
    options.output.mkdir(parents=True, exist_ok=True)
    page = {"pod": asdict(pod), "traffic": asdict(Traffic()), "days": [day.to_json() for day in days]}
    (options.output / "autoscaling.json").write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    draw(options.output / "autoscaling.png", days)
    return 0


if __name__ == "__main__":
    sys.exit(main())
