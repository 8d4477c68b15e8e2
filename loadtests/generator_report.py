"""Prints a run of the benchmark of generators and writes it as Markdown, JSON and PNG.

It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from loadtests import generator_cells as cells
from loadtests.report import TARGET_HEADINGS, machine, number, target_cells, target_table, told_options
from loadtests.style_report import Sheet, machine_line
from loadtests.verdict import Verdict

FILES = ("generators.md", "generators.json", "generators.png")
_OURS, _COMPUTE, _ENCODE, _BARE = "#c8501e", "#e8a06a", "#3b6ea5", "#8a9aa8"


def _percent(values: list[float]) -> str:
    return f"{cells.spread(values):.0%}"


def _bare_sheet(results: cells.Results) -> Sheet:
    rows = [
        [str(batch), number(statistics.median(rates), 0), _percent(rates)]
        for batch, rates in sorted(results.bare.items())
    ]
    title = f"{cells.BARE}, {results.instances} x {results.threads} threads (medians of the rounds)"
    return Sheet(title, ("batch", "images/s", "spread"), rows, num_words=0)


def _service_sheet(results: cells.Results) -> Sheet:
    headings = (
        "load",
        "images/s",
        "spread",
        "of bare 64",
        "compute, images/s",
        "spread",
        "of bare 64",
        "encode, ms/image",
        "rows a batch",
        "p50 ms",
        "cores",
    )
    rows = []
    for cell in results.cells:
        whole, compute = (cells.fraction_of_bare(results, cell, whole=each) for each in (True, False))
        rates = [r.images_per_second for r in cell.rounds]
        computed = [r.compute_images_per_second for r in cell.rounds]
        row = [cell.load.describe(), number(cell.rate, 0), _percent(rates), number(whole)]
        row += [number(statistics.median(computed), 0), _percent(computed), number(compute)]
        row += [number(cell.median(lambda r: r.encode_ms), 3), number(cell.median(lambda r: r.mean_batch), 1)]
        row += [number(cell.median(lambda r: r.p50_ms), 1), number(cell.median(lambda r: r.cpu_cores))]
        rows.append(row)
    return Sheet(f"{cells.SERVICE} (medians of the rounds)", headings, rows)


def _note(results: cells.Results) -> str:
    return (
        f"Model {results.model}. The service runs {results.instances} x {results.threads} threads, as bare does; "
        "the compute part counts the decoder's rows over the seconds that the engine computes them, and fractions are "
        "taken round by round. Encoding PNG is apart: ms for one picture, a grid's shared by its pictures. "
        "Spread: the largest less the smallest round, over the median."
    )


def _sheets(results: cells.Results) -> list[Sheet]:
    return [sheet for sheet in (_bare_sheet(results), _service_sheet(results)) if sheet.rows]


def print_tables(console: Console, results: cells.Results, verdicts: list[Verdict]) -> None:
    """Print everything a reader wants to see, the targets last."""
    for sheet in _sheets(results):
        console.print(sheet.to_rich())
    console.print(_note(results), markup=False)
    console.print(target_table(verdicts))


def write_files(folder: Path, results: cells.Results, verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """Write generators.md, generators.json and generators.png into `folder`."""
    facts, (markdown, page, chart) = machine(), FILES
    targets = Sheet("Targets", TARGET_HEADINGS, [target_cells(verdict) for verdict in verdicts])
    sheets = "\n".join(sheet.to_markdown() for sheet in [targets, *_sheets(results)])
    head = [f"# {cells.SERVICE}: image generation, {facts['finished']}", machine_line(facts), _note(results)]
    text = "\n\n".join([*head, f"![Rates, and the time of a picture]({chart})", sheets])
    (folder / markdown).write_text(text, encoding="utf-8")
    values = {"machine": facts, "options": told_options(options), **results.to_json()}
    values["targets"] = [verdict.to_json() for verdict in verdicts]
    (folder / page).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(results).savefig(folder / chart, dpi=100, facecolor="white")


def _draw_rates(axes: Axes, results: cells.Results) -> None:
    """Bare, then each load: its compute part, and the whole way."""
    bars = [(f"bare, batch {batch}", statistics.median(rates), _BARE) for batch, rates in sorted(results.bare.items())]
    for cell in results.cells:
        computed = cell.median(lambda r: r.compute_images_per_second)
        bars += [(f"{cell.load.describe()}: compute", computed, _COMPUTE), (cell.load.describe(), cell.rate, _OURS)]
    drawn = axes.barh(range(len(bars)), [rate for _, rate, _ in bars], color=[colour for *_, colour in bars])
    axes.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title="Images a second", xlabel="images/s")


def _draw_parts(axes: Axes, results: cells.Results) -> None:
    """What one picture costs in computing and in encoding, beside each other."""
    names = [cell.load.describe() for cell in results.cells]
    instances = max(1, results.instances)
    compute = [1000 * instances / cell.median(lambda r: r.compute_images_per_second) for cell in results.cells]
    encode = [cell.median(lambda r: r.encode_ms) for cell in results.cells]
    axes.barh(range(len(names)), compute, color=_COMPUTE, label="compute")
    axes.barh(range(len(names)), encode, left=compute, color=_ENCODE, label="encode PNG")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(title="Time of one picture", xlabel="ms")
    axes.legend(fontsize=8)


def draw(results: cells.Results) -> Figure:
    """Draw the rates, and what a picture costs in computing and in encoding."""
    figure = Figure(figsize=(15, 2 + 0.5 * max(4, len(results.cells))), layout="constrained")
    rates, parts = figure.subplots(1, 2, width_ratios=(1.4, 1))
    _draw_rates(rates, results)
    _draw_parts(parts, results)
    return figure
