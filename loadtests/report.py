"""Writes a benchmark's results: tables for the console and in Markdown, JSON, and charts as PNG.

Tables and charts are data. It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.chart import Panel, draw
from loadtests.results import Cell, Results, Verdict

_VERDICTS = {True: "reached", False: "missed", None: "not measured"}
_COLOURS = {"reached": "[green]reached[/]", "held": "[green]held[/]", "missed": "[red]missed[/]"}
_PLACES = {"repository", "hf", "peers_python", "photos", "output"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: a name of the case, a figure's median with so many decimals, or what a function finds."""

    heading: str
    source: str | Callable[[Cell], str | float | None]
    digits: int = 2

    def value(self, cell: Cell) -> str:
        """The cell's entry as text."""
        if not isinstance(self.source, str):
            found = self.source(cell)
        elif self.source in cell.case:
            return str(cell.case[self.source])
        else:
            found = cell.median(self.source)
        return found if isinstance(found, str) else number(found, self.digits)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table in plain text; `num_words` columns hold words, the rest numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1

    def to_rich(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if index < self.num_words else "right")
        for row in self.rows:
            table.add_row(*(_COLOURS.get(entry, entry) for entry in row))
        return table

    def to_markdown(self) -> str:
        """The table in Markdown, its title above it."""
        rule = ["---" if index < self.num_words else "---:" for index in range(len(self.headings))]
        lines = [f"| {' | '.join(row)} |" for row in (self.headings, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, ""])


@dataclass(frozen=True, slots=True)
class Report:
    """How a benchmark is reported: the files' name, a title, and what is made of its results."""

    name: str
    title: str
    judge: Callable[[Results], list[Verdict]]
    sheets: Callable[[Results], list[Sheet]]
    panels: Callable[[Results], list[Panel]]
    notes: Callable[[Results], list[str]]

    @property
    def files(self) -> tuple[str, str, str]:
        """The files that `write` writes."""
        return f"{self.name}.md", f"{self.name}.json", f"{self.name}.png"

    def tables(self, results: Results) -> list[Sheet]:
        """The targets, and the tables that have anything to show."""
        rows = [
            (v.goal, f"{'<=' if v.at_most else '>='} {v.wanted:g}", number(v.found, 3), _VERDICTS[v.reached])
            for v in self.judge(results)
        ]
        targets = Sheet("Targets", ("target", "wanted", "found", ""), rows)
        return [targets, *(sheet for sheet in self.sheets(results) if sheet.rows)]

    def _notes(self, results: Results) -> list[str]:
        missing = [f"Not measured: {name}: {reason}" for name, reason in results.unavailable.items()]
        return [*self.notes(results), *missing]

    def show(self, console: Console, results: Results) -> None:
        """Print the tables, the targets last."""
        targets, *sheets = self.tables(results)
        console.print(*(sheet.to_rich() for sheet in sheets))
        for note in self._notes(results):
            console.print(note, markup=False)
        console.print(targets.to_rich())

    def markdown(self, page: dict[str, Any]) -> str:
        """The report of a JSON page."""
        results = Results.from_json(page)
        head = [f"# hotplate: {self.title}, {page['machine']['finished']}", machine_line(page["machine"])]
        sheets = "\n".join(sheet.to_markdown() for sheet in self.tables(results))
        return "\n\n".join([*head, *self._notes(results), f"![The figures]({self.files[2]})", sheets])

    def write(self, folder: Path, results: Results, options: argparse.Namespace) -> None:
        """Write Markdown, JSON and PNG into a folder."""
        # Folders say where this machine keeps things, not how it was measured.
        told = {name: value for name, value in vars(options).items() if name not in _PLACES}
        targets = [verdict.to_json() for verdict in self.judge(results)]
        page = {"machine": machine(), "options": told, **results.to_json(), "targets": targets}
        markdown, figures, chart = (folder / file for file in self.files)
        figures.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
        markdown.write_text(self.markdown(page), encoding="utf-8")
        draw(chart, self.panels(results))


def sheet(title: str, cells: Iterable[Cell], columns: Sequence[Column], num_words: int = 1) -> Sheet:
    """A table with a row for each cell."""
    rows = [[column.value(cell) for column in columns] for cell in cells]
    return Sheet(title, [column.heading for column in columns], rows, num_words)


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def plural(count: int | str, word: str) -> str:
    """A count with its word, as in "1 caller" and "8 callers"."""
    return f"{count} {word}{'s' * (int(count) > 1)}"


def machine() -> dict[str, Any]:
    """What the run ran on."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")), "unknown")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("onnxruntime", "fastapi", "uvicorn", "uvloop")},
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The machine and the libraries in one line."""
    load = ", ".join(f"{value:.2f}" for value in facts["load_average"])
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, load average {load}; Python {facts['python']}, {libraries}."
