"""Draws simulated days: the traffic over the capacity, the pods, the wait at the spike. It knows results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from loadtests.autoscaling_day import Day

_COLOURS = ("#c8501e", "#3d5a80", "#8d6a9f", "#3b7a57", "#8a9aa8", "#d9a441", "#5fb0b7", "#222222")
_STEP = 60


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
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    _draw_capacity(axes[0], days[0])
    _draw_pods(axes[1], days)
    _draw_spike(axes[2], days)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
