"""Draws a run against the number of users: throughput, percentiles, each limit, and texts. It knows a summary only."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

_COLOURS = {"classify": "#c8501e", "stylize": "#3b7a57", "complete": "#3d5a80", "draw": "#8d6a9f"}
_ALL = "#222222"


def _draw_throughput(axes: Axes, levels: list[dict[str, Any]]) -> None:
    users = [level["users"] for level in levels]
    axes.plot(users, [level["requests_per_second"] for level in levels], "o-", color=_ALL, label="all")
    for action, colour in _COLOURS.items():
        rates = [level["actions"].get(action, {}).get("requests_per_second") for level in levels]
        if any(rates):
            axes.plot(users, [rate or 0.0 for rate in rates], "o-", color=colour, linewidth=1, label=action)
    axes.set_title("throughput")
    axes.set_ylabel("good replies/s")


def _draw_percentiles(axes: Axes, levels: list[dict[str, Any]]) -> None:
    users = [level["users"] for level in levels]
    for percent, style in ((50, "o-"), (95, "s--"), (99, "^:")):
        axes.plot(users, [level[f"p{percent}_ms"] for level in levels], style, color=_ALL, label=f"p{percent}, all")
    axes.set_title("latency of all requests together")
    axes.set_ylabel("ms")
    axes.set_yscale("log")


def _draw_limits(axes: Axes, levels: list[dict[str, Any]], limits: dict[str, float]) -> None:
    """The p99 that each limit is about, as a share of it."""
    for action, colour in _COLOURS.items():
        found = [
            (level["first_token"] if action == "complete" else level["actions"].get(action, {})).get("p99_ms")
            for level in levels
        ]
        points = [(level["users"], p99 / limits[action]) for level, p99 in zip(levels, found, strict=True) if p99]
        if points:
            words = f"{action}, limit {limits[action]:g} ms" + (" (first token)" if action == "complete" else "")
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=words)
    axes.axhline(1.0, color="#aa0000", linewidth=1, linestyle="--")
    axes.set_title("p99 as a share of its limit")
    axes.set_yscale("log")


def _draw_texts(axes: Axes, levels: list[dict[str, Any]]) -> None:
    users = [level["users"] for level in levels]
    axes.plot(users, [level["tokens_per_second"] for level in levels], "o-", color=_COLOURS["complete"])
    axes.set_title("texts: tokens a second, and time to first token")
    axes.set_ylabel("tokens/s", color=_COLOURS["complete"])
    axes.set_xlabel("users")
    axes.set_ylim(bottom=0)
    beside = axes.twinx()
    for percent, style in ((50, "o-"), (95, "s--")):
        values = [(level["users"], level["first_token"][f"p{percent}_ms"]) for level in levels]
        points = [point for point in values if point[1] is not None]
        if points:
            beside.plot(*zip(*points, strict=True), style, color=_ALL, linewidth=1, label=f"first token p{percent}")
    beside.set_ylabel("ms")
    beside.set_ylim(bottom=0)
    if beside.lines:
        beside.legend(fontsize=8)


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Write the chart as PNG."""
    levels = summary["levels"]
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    _draw_throughput(axes[0][0], levels)
    _draw_percentiles(axes[0][1], levels)
    _draw_limits(axes[1][0], levels, summary["limits_ms"])
    _draw_texts(axes[1][1], levels)
    for panel in (axes[0][0], axes[0][1], axes[1][0]):
        panel.set_xlabel("users")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(summary["knee"] or "", 100)), fontsize=11)
    figure.savefig(path, dpi=75)
    pyplot.close(figure)
