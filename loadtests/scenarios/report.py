"""Writes what a run found: summary.json, levels.png and report.html in a folder, and a table for the console.

It knows results, not how they were measured. What it writes names no path of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.scenarios.level_chart import draw
from loadtests.scenarios.levels import Level
from loadtests.scenarios.thresholds import Knee, Thresholds, find_knee, judge
from loadtests.servers import ROOT
from loadtests.verdict import Verdict

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
