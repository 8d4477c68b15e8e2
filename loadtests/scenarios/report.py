"""Writes what a run found: summary.json, levels.png and report.html in a folder, and a table for the console.

It knows results, not how they were measured. What it writes names no path of the machine.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from loadtests.results import Verdict
from loadtests.scenarios.levels import Level
from loadtests.scenarios.thresholds import Knee, Thresholds, find_knee, judge
from loadtests.servers import ROOT

SUMMARY_FILE, CHART_FILE, HTML_FILE = "summary.json", "levels.png", "report.html"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run: its circumstances, what it found, and whether that is enough."""

    head: dict[str, Any]
    whole: Level
    levels: Sequence[Level]
    thresholds: Thresholds
    finds_limit: bool

    @property
    def knee(self) -> Knee | None:
        """The largest load that was sustained."""
        return find_knee(self.levels, self.thresholds)

    @property
    def checks(self) -> list[Verdict]:
        """The thresholds and what was found."""
        return judge(self.whole, self.levels, self.thresholds, finds_limit=self.finds_limit)

    @property
    def passed(self) -> bool:
        """Whether every threshold holds."""
        return all(check.reached for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        knee = self.knee
        return {
            **self.head,
            "passed": self.passed,
            "knee": knee.describe() if knee else None,
            "sustained_requests_per_second": knee.requests_per_second if knee else None,
            "checks": [check.to_json() for check in self.checks],
            "limits_ms": dict(self.thresholds.limits_ms),
            "whole": self.whole.to_json(),
            "levels": [level.to_json() for level in self.levels],
        }


def without_paths(text: str) -> str:
    """The text without the project's folder, whose place says something of the machine and nothing of the run."""
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def write_report(folder: Path, outcome: Outcome, html: str) -> None:
    """Write the files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = outcome.to_json()
    (folder / SUMMARY_FILE).write_text(without_paths(json.dumps(summary, indent=1)) + "\n", encoding="utf-8")
    (folder / HTML_FILE).write_text(without_paths(html), encoding="utf-8")
    if outcome.levels:
        draw(folder / CHART_FILE, summary)


def _number(value: float | None, form: str = ".0f") -> str:
    return "" if value is None else format(value, form)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Show a summary as tables."""
    levels = Table(title=f"{summary['shape']}, mix {summary['mix']}")
    names = ("users", "requests/s", "failed", "p50 ms", "p95 ms", "p99 ms", "first token p95 ms", "tokens/s")
    for name in names:
        levels.add_column(name, justify="right")
    for level in summary["levels"]:
        levels.add_row(
            str(level["users"]),
            _number(level["requests_per_second"], ".1f"),
            _number(100 * level["failure_ratio"], ".2f") + " %",
            *(_number(level[name]) for name in ("p50_ms", "p95_ms", "p99_ms")),
            _number(level["first_token"]["p95_ms"]),
            _number(level["tokens_per_second"]),
        )
    console.print(levels)
    checks = Table(title="thresholds")
    for name in ("threshold", "limit", "found", ""):
        checks.add_column(name, justify="left" if name in ("threshold", "") else "right")
    for check in summary["checks"]:
        sign = "at most" if check["at_most"] else "at least"
        verdict = "[green]held[/]" if check["reached"] else "[red]missed[/]"
        checks.add_row(check["goal"], f"{sign} {check['wanted']:g}", _number(check["found"], ".4g"), verdict)
    console.print(checks)
    console.print(summary["knee"] or "No level lasted long enough to be measured.", highlight=False)


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
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
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
