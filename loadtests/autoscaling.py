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
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.autoscaling_chart import draw
from loadtests.autoscaling_day import DAY_SECONDS, IN_FLIGHT, Day, Plan, Pod, Signal, Traffic, simulate
from loadtests.servers import ROOT


def plans_of(pod: Pod, traffic: Traffic) -> list[Plan]:
    """The days that are compared: the chart's default, what changes it, and a fleet that never changes."""
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
    """Show the days beside each other."""
    table = Table(title="a day of traffic")
    table.add_column("autoscaling")
    for name in ("late %", "refused %", "longest wait s", "most pods", "pod hours"):
        table.add_column(name, justify="right")
    for day in days:
        page = day.to_json()
        figures = (100 * day.late / day.arrived, 100 * day.refused / day.arrived, max(day.wait_seconds))
        table.add_row(day.plan.name, *(f"{f:.2f}" for f in figures), str(page["most_pods"]), f"{day.pod_hours:.0f}")
    console.print(table)


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
