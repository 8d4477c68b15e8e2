"""Prints a run of the benchmark of protocols and writes it as Markdown, JSON and PNG.

It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from loadtests import protocol_cells as cells
from loadtests.protocol_bodies import Form
from loadtests.report import TARGET_HEADINGS, machine, number, target_cells, target_table, told_options
from loadtests.style_report import Sheet, machine_line
from loadtests.targets import SERVICE
from loadtests.verdict import Verdict

FILES = ("protocols.md", "protocols.json", "protocols.png")
_COLOURS = {Form.JSON: "#8a9aa8", Form.BINARY: "#c8501e", Form.GRPC: "#3b6ea5", Form.PNG: "#e8a06a"}
_NOTE = (
    "Medians of the rounds. Fractions are taken round by round: of bare ONNX Runtime right before and after, and of an "
    "empty endpoint (FastAPI, grpc.aio) that reads the same bytes and answers nothing. wrk, in C, loads HTTP; gRPC is "
    "loaded by Python's grpc.aio, which shares the machine's cores with the service and costs several times as much: "
    "compare gRPC with its own empty endpoint, not with HTTP. PNG goes to /v1, the other forms to /v2."
)


def _sheet(model: str, results: cells.Results) -> Sheet:
    headings = (
        "form",
        "body, kB",
        "callers",
        "requests/s",
        "of bare",
        "of empty",
        "p50 ms",
        "p99 ms",
        "rows a batch",
        "errors",
    )
    rows = []
    for cell in (cell for cell in results.cells if cell.load.model == model and cell.rounds):
        size = results.bytes_of.get((model, cell.load.form), 0) / 1e3
        row = [cell.load.form.value, number(size, 1), str(cell.load.callers), number(cell.rate, 0)]
        row += [number(cell.fraction_of_bare), number(cell.fraction_of_empty)]
        row += [number(cell.median(lambda r: r.p50_ms)), number(cell.median(lambda r: r.p99_ms))]
        row += [number(cell.mean_batch_size, 1), str(sum(r.num_errors for r in cell.rounds))]
        rows.append(row)
    return Sheet(f"{model} (bare: {results.limits.get(model, '-')})", headings, rows)


def _sheets(results: cells.Results) -> list[Sheet]:
    models = dict.fromkeys(cell.load.model for cell in results.cells)
    return [sheet for sheet in (_sheet(model, results) for model in models) if sheet.rows]


def print_tables(console: Console, results: cells.Results, verdicts: list[Verdict]) -> None:
    """Print everything a reader wants to see, the targets last."""
    for sheet in _sheets(results):
        console.print(sheet.to_rich())
    console.print(_NOTE, markup=False)
    console.print(target_table(verdicts))


def write_files(folder: Path, results: cells.Results, verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """Write protocols.md, protocols.json and protocols.png into `folder`."""
    facts, (markdown, page, chart) = machine(), FILES
    targets = Sheet("Targets", TARGET_HEADINGS, [target_cells(verdict) for verdict in verdicts])
    sheets = "\n".join(sheet.to_markdown() for sheet in [targets, *_sheets(results)])
    head = [f"# {SERVICE}: the Open Inference Protocol, {facts['finished']}", machine_line(facts), _NOTE]
    text = "\n\n".join([*head, f"![Shares of the empty endpoint]({chart})", sheets])
    (folder / markdown).write_text(text, encoding="utf-8")
    options_told = {name: value for name, value in told_options(options).items() if name != "source"}
    values = {"machine": facts, "options": options_told, **results.to_json()}
    values["targets"] = [verdict.to_json() for verdict in verdicts]
    (folder / page).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(results).savefig(folder / chart, dpi=100, facecolor="white")


def draw(results: cells.Results) -> Figure:
    """Draw each model's requests a second by form and callers."""
    measured = [cell for cell in results.cells if cell.rounds]
    models = list(dict.fromkeys(cell.load.model for cell in measured))
    figure = Figure(figsize=(5 * max(1, len(models)), 4), layout="constrained")
    for index, model in enumerate(models):
        axes = figure.add_subplot(1, len(models), index + 1)
        callers = sorted({cell.load.callers for cell in measured if cell.load.model == model})
        forms = [form for form in Form if any((c.load.model, c.load.form) == (model, form) for c in measured)]
        width = 0.8 / len(forms)
        for place, form in enumerate(forms):
            rates = [results.cell(cells.Load(model, form, count)).rate for count in callers]
            spots = [spot + place * width for spot in range(len(callers))]
            bars = axes.bar(spots, rates, width, label=form.value, color=_COLOURS[form])
            axes.bar_label(bars, fmt="%.0f", fontsize=7)
        axes.set_xticks([spot + 0.4 - width / 2 for spot in range(len(callers))], [str(count) for count in callers])
        axes.set(title=model, xlabel="callers", ylabel="requests/s")
        axes.legend(fontsize=8)
    return figure
