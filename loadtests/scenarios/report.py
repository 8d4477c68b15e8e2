"""Reports a load test: summary.json, levels.png and report.html in a folder, and tables for the console.

It knows results, not how they were measured. What it writes names no path of the machine.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests.chart import Panel, draw
from loadtests.report import Sheet
from loadtests.results import Verdict
from loadtests.scenarios.catalog import COMPLETE
from loadtests.scenarios.levels import Level
from loadtests.scenarios.thresholds import Knee, Thresholds, find_knee, judge
from loadtests.servers import ROOT

SUMMARY_FILE, CHART_FILE, HTML_FILE = "summary.json", "levels.png", "report.html"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run: shape, mix and host in `head`, what was measured, and what had to hold."""

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
    """The text without the project's folder: where that is says nothing about the run."""
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def write_report(folder: Path, outcome: Outcome, html: str) -> None:
    """Write the files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = outcome.to_json()
    (folder / SUMMARY_FILE).write_text(without_paths(json.dumps(summary, indent=1)) + "\n", encoding="utf-8")
    (folder / HTML_FILE).write_text(without_paths(html), encoding="utf-8")
    if outcome.levels:
        draw(folder / CHART_FILE, make_panels(summary), "\n".join(textwrap.wrap(summary["knee"] or "", 100)))


def _number(value: float | None, form: str = ".0f") -> str:
    return "" if value is None else format(value, form)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a summary as tables."""
    names = ("users", "requests/s", "failed", "p50 ms", "p95 ms", "p99 ms", "first token p95 ms", "tokens/s")
    rows = [
        [
            str(level["users"]),
            _number(level["requests_per_second"], ".1f"),
            _number(100 * level["failure_ratio"], ".2f") + " %",
            *(_number(level[name]) for name in ("p50_ms", "p95_ms", "p99_ms")),
            _number(level["first_token"]["p95_ms"]),
            _number(level["tokens_per_second"]),
        ]
        for level in summary["levels"]
    ]
    checks = [
        [
            check["goal"],
            f"{'at most' if check['at_most'] else 'at least'} {check['wanted']:g}",
            _number(check["found"], ".4g"),
            "held" if check["reached"] else "missed",
        ]
        for check in summary["checks"]
    ]
    console.print(Sheet(f"{summary['shape']}, mix {summary['mix']}", names, rows, num_words=0).to_rich())
    console.print(Sheet("thresholds", ("threshold", "limit", "found", ""), checks).to_rich())
    console.print(summary["knee"] or "No level lasted long enough to be measured.", highlight=False)


def make_panels(summary: dict[str, Any]) -> list[Panel]:
    """Charts against the number of users: throughput, percentiles, each p99 as a share of its limit, and texts."""
    levels, limits = summary["levels"], summary["limits_ms"]
    actions = [action for action in limits if any(action in level["actions"] for level in levels)]

    def panel(title: str, unit: str, series: dict[str, Callable[[Any], float | None]], **more: Any) -> Panel:
        values = {name: [find(level) for level in levels] for name, find in series.items()}
        users = [str(level["users"]) for level in levels]
        return Panel(title=f"{title}, by users", unit=unit, categories=users, series=values, kind="lines", **more)

    def share(action: str) -> Callable[[Any], float | None]:
        def find(level: Any) -> float | None:
            p99 = (level["first_token"] if action == COMPLETE else level["actions"].get(action, {})).get("p99_ms")
            return p99 / limits[action] if p99 else None

        return find

    def rate(action: str) -> Callable[[Any], float | None]:
        return lambda level: level["actions"].get(action, {}).get("requests_per_second")

    def figure(name: str, part: str = "") -> Callable[[Any], float | None]:
        return lambda level: (level[part] if part else level)[name]

    percentiles = {f"p{percent}": f"p{percent}_ms" for percent in (50, 95, 99)}
    rates = {"all": figure("requests_per_second")} | {action: rate(action) for action in actions}
    words = {action: "first token" if action == COMPLETE else "latency" for action in actions}
    shares = {f"{action}: {words[action]}, limit {limits[action]:g} ms": share(action) for action in actions}
    first = {name: figure(key, "first_token") for name, key in percentiles.items()}
    return [
        panel("Throughput", "good replies/s", rates),
        panel("Latency of all requests", "ms", {n: figure(key) for n, key in percentiles.items()}, is_log=True),
        panel("p99 as a share of its limit", "share", shares, is_log=True, limit=1.0),
        panel("Texts", "tokens/s", {"tokens a second": figure("tokens_per_second")}),
        panel("Texts: time to first token", "ms", first),
    ]
