"""Prints a run of the language benchmark as tables and writes it as JSON and PNG.

It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from loadtests.language_cells import CONCURRENCIES, SERVICE, Results
from loadtests.report import machine, target_table, told_options
from loadtests.verdict import Verdict

FILES = ("language.json", "language.png")
_OURS = "#c8501e"


def print_tables(console: Console, results: Results, verdicts: list[Verdict]) -> None:
    """Print everything a reader wants to see, the targets last."""
    table = Table(title="Engines (medians of the rounds)", title_justify="left")
    table.add_column("engine")
    for heading in ("streams", "tokens/s", "first token p50, ms", "gap p50, ms", "gap p99, ms"):
        table.add_column(heading, justify="right")
    for cell in results.cells:
        figures = [
            cell.rate,
            cell.median(lambda r: r.first_token_p50_ms),
            cell.median(lambda r: r.gap_p50_ms),
            cell.median(lambda r: r.gap_p99_ms),
        ]
        table.add_row(cell.engine, str(cell.concurrency), *(f"{figure:,.2f}" for figure in figures))
    console.print(table)
    for threads, steps in results.bare_step_ms.items():
        console.print(f"bare ONNX Runtime, 16 rows, {threads} threads: {statistics.median(steps):.3f} ms a step")
    if results.service_step_ms is not None:
        console.print(f"{SERVICE}, 16 streams: {results.service_step_ms:.3f} ms a step by its own metrics (mean)")
    for engine, share in results.agreement.items():
        console.print(f"{engine}: {share:.1%} of its tokens come before the first that differs from {SERVICE}'s")
    for engine, reason in results.unavailable.items():
        console.print(f"{engine}: {reason}", style="yellow", markup=False)
    console.print(target_table(verdicts))


def write_files(folder: Path, results: Results, verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """Write the JSON and the picture into `folder`."""
    page = {
        "machine": machine(),
        "options": told_options(options),
        **results.to_json(),
        "targets": [verdict.to_json() for verdict in verdicts],
    }
    figures, picture = FILES
    (folder / figures).write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
    draw(results).savefig(folder / picture, dpi=100, facecolor="white")


def draw(results: Results) -> Figure:
    """Draw tokens a second and the gaps between tokens, by streams and engine."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    rates, gaps = figure.subplots(1, 2)
    engines = list(dict.fromkeys(cell.engine for cell in results.cells))
    for index, engine in enumerate(engines):
        cells = [cell for cell in results.cells if cell.engine == engine]
        colour = _OURS if engine == SERVICE else f"C{index}"
        width = 0.8 / len(engines)
        places = [CONCURRENCIES.index(c.concurrency) + index * width - 0.4 + width / 2 for c in cells]
        rates.bar(places, [c.rate for c in cells], width * 0.9, label=engine, color=colour)
        streams = [CONCURRENCIES.index(c.concurrency) for c in cells]
        gaps.plot(streams, [c.median(lambda r: r.gap_p50_ms) for c in cells], "o-", label=engine, color=colour)
        gaps.plot(streams, [c.median(lambda r: r.gap_p99_ms) for c in cells], "^:", color=colour)
    for axes in (rates, gaps):
        axes.set_xticks(range(len(CONCURRENCIES)), [str(c) for c in CONCURRENCIES])
        axes.set_xlabel("streams at once")
        axes.grid(alpha=0.3, axis="y")
    rates.set(title="Greedy, 64-token prompts, 128 new tokens", ylabel="tokens/s, all streams")
    gaps.set(title="Between two tokens: p50 (solid), p99 (dotted)", ylabel="ms", yscale="log")
    if engines:
        rates.legend(loc="upper left")
    return figure
