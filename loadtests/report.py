"""Prints a run of the benchmark as tables and writes it as JSON and PNG.

It knows results, not how they were measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.chart import draw
from loadtests.measure import RAW, Cell
from loadtests.targets import EMPTY, PLAIN, SERVICE, Results, ratio_to
from loadtests.verdict import Verdict

_VERDICT = {True: "reached", False: "missed", None: "not measured"}
_COLOURS = {"reached": "[green]reached[/green]", "missed": "[red]missed[/red]"}
FILES = ("bench.json", "bench.png")
_PLACES = {"repository", "hf", "peers_python", "photos", "output"}
TARGET_HEADINGS = ("target", "wanted", "found", "")

# Bare bursts a few seconds apart differ by less than this on a machine that does nothing else.
_STEADY = 0.15


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


def told_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options without folders: those say where this machine keeps things, not how it was measured."""
    return {name: value for name, value in vars(options).items() if name not in _PLACES}


def number(value: float | None, digits: int = 2) -> str:
    """A figure with so many decimals; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _bare_table(model: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"Bare ONNX Runtime, {model}", title_justify="left")
    for heading in ("setting", "images/s", "p50 of one run, ms"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for row in rows:
        table.add_row(row["setting"], number(row["images_per_second"], 0), number(row["p50_ms"]))
    return table


def _batches(cell: Cell) -> str:
    """The batch sizes of the last round: bucket bound and share."""
    last = cell.rounds[-1].batch_sizes
    if last is None or not last.num_observations:
        return ""
    shares = [(bound.removesuffix(".0"), count / last.num_observations) for bound, count in last.counts.items()]
    return " ".join(f"<={bound}:{share:.0%}" for bound, share in shares if share >= 0.005)


def _cell_table(cells: list[Cell]) -> Table:
    table = Table(title="Servers (medians of the rounds)", title_justify="left")
    for heading in ("server", "model", "body"):
        table.add_column(heading)
    for heading in ("callers", "requests/s", "/bare", "p50 ms", "p99 ms", "cores", "errors", "rows/batch"):
        table.add_column(heading, justify="right")
    table.add_column("batches of the last round, by upper bound")
    for cell in cells:
        table.add_row(
            cell.server,
            cell.model,
            "raw" if cell.media_type == RAW else "PNG",
            str(cell.concurrency),
            number(cell.rate, 0),
            number(cell.fraction_of_bare),
            number(cell.median(lambda r: r.p50_ms)),
            number(cell.median(lambda r: r.p99_ms)),
            number(cell.median(lambda r: r.cpu_cores)),
            str(sum(r.num_errors for r in cell.rounds)),
            number(cell.mean_batch_size, 1),
            _batches(cell),
        )
    return table


def _server_table(results: Results) -> Table:
    table = Table(title="Servers as a whole, after the load", title_justify="left")
    for heading in ("server", "model"):
        table.add_column(heading)
    for heading in ("ready s", "idle, % of a core", "RSS MiB", "PSS MiB"):
        table.add_column(heading, justify="right")
    for facts in results.servers:
        figures = (facts.ready_seconds, facts.idle_cores * 100, facts.rss_mib, facts.pss_mib)
        table.add_row(facts.name, facts.model, *(number(figure, 1) for figure in figures))
    return table


def ratios(results: Results) -> dict[str, float | None]:
    """The service at 64 callers, light model, raw tensors, over each of the others by their fractions of bare."""
    others = {"plain fastapi": PLAIN} | {name: (name,) for name in (EMPTY, "litserve", "mosec")}
    return {name: ratio_to(results, servers) for name, servers in others.items()}


def count_unsteady(results: Results) -> int:
    """How many rounds lie between bare bursts too far apart to take a fraction against."""
    return sum(r.bare_spread > _STEADY for cell in results.cells for r in cell.rounds)


def target_cells(verdict: Verdict) -> tuple[str, str, str, str]:
    """A target in words: goal, wanted, found, and whether it was reached."""
    sign = "<=" if verdict.at_most else ">="
    return verdict.goal, f"{sign} {verdict.wanted:g}", number(verdict.found, 3), _VERDICT[verdict.reached]


def target_table(verdicts: list[Verdict]) -> Table:
    """The targets and what became of them."""
    table = Table(title="Targets", title_justify="left")
    for heading in TARGET_HEADINGS:
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for verdict in verdicts:
        *figures, word = target_cells(verdict)
        table.add_row(*figures, _COLOURS.get(word, word))
    return table


def print_tables(console: Console, results: Results, verdicts: list[Verdict]) -> None:
    """Print everything a reader wants to see, the targets last."""
    for model, rows in results.bare.items():
        console.print(_bare_table(model, rows))
    if results.cells:
        console.print(_cell_table(results.cells))
        console.print(_server_table(results))
    for name, ratio in ratios(results).items():
        if ratio is not None:
            console.print(f"{SERVICE} / {name}, {results.light}, raw, 64 callers: {ratio:.2f}")
    for name, reason in results.unavailable.items():
        console.print(f"Not measured: {name}: {reason}")
    console.print(target_table(verdicts))
    if (num_unsteady := count_unsteady(results)) > 0:
        num_rounds = sum(len(cell.rounds) for cell in results.cells)
        console.print(
            f"{num_unsteady} of {num_rounds} rounds lie between bare bursts that differ by more than {_STEADY:.0%}: "
            "others used the machine, and the fractions and the targets above are not to be relied on.",
            style="yellow",
        )


def write_files(folder: Path, results: Results, verdicts: list[Verdict], options: argparse.Namespace) -> None:
    """Write bench.json and bench.png into `folder`."""
    page = {
        "machine": machine(),
        "options": told_options(options),
        "bare": results.bare,
        "cells": [cell.to_json() for cell in results.cells],
        "servers": [asdict(facts) for facts in results.servers],
        "unsteady_rounds": count_unsteady(results),
        "batching_ratios": results.batching_ratios,
        "ratios": ratios(results),
        "unavailable": results.unavailable,
        "targets": [verdict.to_json() for verdict in verdicts],
    }
    figures, picture = FILES
    (folder / figures).write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")
    draw(folder / picture, results)
