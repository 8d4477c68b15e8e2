"""Prints a run of the style benchmark and writes it as Markdown, JSON and PNG.

It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from loadtests import style_cells as cells
from loadtests.report import TARGET_HEADINGS, machine, number, target_cells, target_table, told_options
from loadtests.verdict import Verdict

FILES = ("style.md", "style.json", "style.png")
_OURS, _BARE, _PEER = "#c8501e", "#8a9aa8", "#3b6ea5"
_COLOURS = {cells.SERVICE: _OURS, cells.BARE: _BARE, cells.PEER: _PEER}
_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table in plain text; `num_words` columns hold words, the rest figures."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    num_words: int = 1

    def to_rich(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if index < self.num_words else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """The table in Markdown, its title above it."""
        rule = ["---" if index < self.num_words else "---:" for index in range(len(self.headings))]
        lines = [f"| {' | '.join(row)} |" for row in (self.headings, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, ""])


def _described(cell: cells.Cell) -> str:
    if isinstance(cell.load, cells.Setting):
        return f"bare, {cell.load.describe()}"
    return f"{cells.SERVICE}, {cell.load} caller{'s' * (cell.load > 1)}"


def _rate_sheet(results: cells.Results) -> Sheet:
    headings = (
        "load",
        "pixels",
        "photos/s",
        "of bare",
        "of bare + codec",
        "p50 ms",
        "cores",
        "a batch",
        "Server-Timing, ms (p50)",
    )
    rows = []
    for cell in sorted(results.cells, key=lambda c: c.side):
        timings = ", ".join(f"{name} {value:.1f}" for name, value in cell.timings.items() if name != "batch")
        fractions: list[float | None] = [None, None]
        if not isinstance(cell.load, cells.Setting):
            codec_ms = results.codec_ms.get(cell.side, 0.0)
            fractions = [cells.fraction_of_bare(results, cell, added) for added in (0.0, codec_ms)]
        figures = (cell.median(lambda r: r.p50_ms), cell.median(lambda r: r.cpu_cores), cell.mean_batch)
        shown = [number(cell.rate), *map(number, fractions), *map(number, figures)]
        rows.append([_described(cell), str(cell.side), *shown, timings or "-"])
    return Sheet("Photographs a second (medians of the rounds)", headings, rows)


def _photo_sheet(results: cells.Results) -> Sheet:
    rows = []
    for cell in sorted(results.photos, key=lambda c: (c.side, c.threads, c.engine)):
        ratio = cells.photo_ratio(results, cell.engine, cell.threads, cell.side)
        rows.append([cell.engine, str(cell.side), str(cell.threads), number(cell.median, 3), number(ratio)])
    title = "Seconds a photograph, one at a time, JPEG bytes to JPEG bytes (medians of the rounds)"
    return Sheet(title, ("painter", "pixels", "threads", "seconds", f"over {cells.PEER}"), rows)


def _codec_sheet(results: cells.Results) -> Sheet:
    rows = [(str(side), number(value, 1)) for side, value in sorted(results.codec_ms.items())]
    return Sheet("Decoding the photograph and encoding its painting, alone", ("pixels", "ms"), rows)


def _large_sheet(results: cells.Results) -> Sheet:
    headings = (
        "photograph",
        "Mpx",
        "JPEG MB",
        "seconds",
        "engine before, GB",
        "engine peak, GB",
        "API process peak, GB",
    )
    rows = []
    for found in results.large:
        memory = (found.engine_bytes_before, found.engine_bytes, found.api_bytes)
        seconds = statistics.median(found.seconds)
        figures = (found.megapixels, found.jpeg_bytes / 1e6, seconds, *(size / _GIGA for size in memory))
        rows.append([f"{found.width} x {found.height}", *map(number, figures)])
    return Sheet("Large photographs, each through a fresh service", headings, rows)


def _sheets(results: cells.Results) -> list[Sheet]:
    made = [_rate_sheet(results), _codec_sheet(results), _photo_sheet(results), _large_sheet(results)]
    return [sheet for sheet in made if sheet.rows]


def _notes(results: cells.Results) -> list[str]:
    notes = []
    if results.serving is not None:
        own = results.serving
        notes.append(
            f"The service chose {own.instances} x {own.threads} threads and batches of up to {own.batch}. It takes "
            "and gives JPEG; bare is the network alone, and fractions are of its best setting, round by round "
            "(+ codec: if its cores decoded and encoded too)."
        )
    return notes + [f"Not measured: {name}: {reason}" for name, reason in results.unavailable.items()]


def print_tables(console: Console, results: cells.Results, verdicts: list[Verdict]) -> None:
    """Print everything a reader wants to see, the targets last."""
    for sheet in _sheets(results):
        console.print(sheet.to_rich())
    for note in _notes(results):
        console.print(note, markup=False)
    console.print(target_table(verdicts))


def machine_line(facts: dict[str, Any]) -> str:
    """The machine and the libraries in one line."""
    load = ", ".join(f"{value:.2f}" for value in facts["load_average"])
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, load average {load}; Python {facts['python']}, {libraries}."


def write_files(folder: Path, results: cells.Results, verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """Write style.md, style.json and style.png into `folder`."""
    facts, (markdown, page, chart) = machine(), FILES
    targets = Sheet("Targets", TARGET_HEADINGS, [target_cells(verdict) for verdict in verdicts])
    sheets = "\n".join(sheet.to_markdown() for sheet in [targets, *_sheets(results)])
    head = [f"# {cells.SERVICE}: style transfer, {facts['finished']}", machine_line(facts), *_notes(results)]
    text = "\n\n".join([*head, f"![Rates, seconds a photograph, memory]({chart})", sheets])
    (folder / markdown).write_text(text, encoding="utf-8")
    values = {"machine": facts, "options": told_options(options), **results.to_json()}
    values["targets"] = [verdict.to_json() for verdict in verdicts]
    (folder / page).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(results).savefig(folder / chart, dpi=100, facecolor="white")


def _draw_rates(axes: Axes, results: cells.Results) -> None:
    shown = sorted(results.cells, key=lambda c: c.side)
    colours = [_BARE if isinstance(cell.load, cells.Setting) else _OURS for cell in shown]
    bars = axes.barh(range(len(shown)), [cell.rate for cell in shown], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{cell.side} px: {_described(cell)}" for cell in shown], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title="Photographs a second", xlabel="photographs/s")


def _draw_photos(axes: Axes, results: cells.Results) -> None:
    shown = sorted(results.photos, key=lambda c: (c.side, c.threads, c.engine))
    bars = axes.barh(range(len(shown)), [c.median for c in shown], color=[_COLOURS[c.engine] for c in shown])
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    names = [f"{c.side} px, {c.threads} thread{'s' * (c.threads > 1)}: {c.engine}" for c in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title="Seconds a photograph, JPEG to JPEG", xlabel="s")


def _draw_memory(axes: Axes, results: cells.Results) -> None:
    names = [f"{found.megapixels:.0f} Mpx\n{statistics.median(found.seconds):.1f} s" for found in results.large]
    before = [found.engine_bytes_before / _GIGA for found in results.large]
    peaks = [found.engine_bytes / _GIGA for found in results.large]
    axes.bar(names, peaks, 0.5, color=_OURS, label="peak")
    axes.bar(names, before, 0.5, color=_BARE, label="before")
    axes.axhline(cells.MAX_ENGINE_GB, color="black", linestyle="--", linewidth=1, label="target, 12 Mpx")
    axes.set(title="Memory of the engine", ylabel="GB")
    axes.legend(fontsize=8)


def draw(results: cells.Results) -> Figure:
    """Draw rates, seconds a photograph, and the memory that large ones take."""
    figure = Figure(figsize=(17, 6), layout="constrained")
    rates, photos, memory = figure.subplots(1, 3, width_ratios=(1.3, 1.2, 0.7))
    _draw_rates(rates, results)
    _draw_photos(photos, results)
    _draw_memory(memory, results)
    return figure
