"""Draws a run of the benchmark: rates, fractions of bare ONNX Runtime, and the sizes of the batches.

It knows results, not how they were measured.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from loadtests.measure import RAW, Cell
from loadtests.targets import EMPTY, HEAVY, SERVICE, Results

_CALLERS = (1, 16, 64)
_OURS, _OTHERS = "#c8501e", "#8a9aa8"


def _label(cell: Cell) -> str:
    body = "raw" if cell.media_type == RAW else "PNG"
    return f"{cell.server}, {body}" if cell.server == SERVICE else cell.server


def _draw_rates(axes: Axes, results: Results) -> None:
    """Requests a second of every server on the light model, a group a number of callers."""
    cells = [cell for cell in results.cells if cell.model == results.light]
    labels = list(dict.fromkeys(_label(cell) for cell in cells))
    colours = pyplot.get_cmap("tab10")
    height = 0.8 / max(1, len(labels))
    for index, label in enumerate(labels):
        rates = {cell.concurrency: cell.rate for cell in cells if _label(cell) == label}
        places = [_CALLERS.index(callers) + index * height - 0.4 + height / 2 for callers in rates]
        axes.barh(places, list(rates.values()), height * 0.9, label=label, color=colours(index % 10))
    best = max((row["images_per_second"] for row in _one_thread(results)), default=None)
    if best is not None:
        axes.axvline(best, color="black", linestyle="--", linewidth=1, label="bare, 1 thread, best batch")
    axes.set_yticks(range(len(_CALLERS)), [f"{callers} caller{'s' * (callers > 1)}" for callers in _CALLERS])
    axes.invert_yaxis()
    axes.set_xlabel("requests/s")
    axes.set_title(f"{results.light}: rate")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)


def _one_thread(results: Results) -> list[dict[str, float]]:
    return [row for row in results.bare.get(results.light, []) if row["threads"] * row["instances"] == 1]


def _draw_fractions(axes: Axes, results: Results) -> None:
    """The fraction of bare that every server reaches: light at 64 callers, heavy at 16."""
    # The empty endpoint runs no network, so it has no fraction of one.
    wanted = ((results.light, 64), (HEAVY, 16))
    cells = [c for c in results.cells if (c.model, c.concurrency) in wanted and c.server != EMPTY]
    names = [f"{_label(cell)}\n{cell.model}, {cell.concurrency} callers" for cell in cells]
    colours = [_OURS if cell.server == SERVICE else _OTHERS for cell in cells]
    bars = axes.barh(range(len(cells)), [cell.fraction_of_bare for cell in cells], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_yticks(range(len(cells)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.axvline(1.0, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel("requests/s over images/s of bare ONNX Runtime")
    axes.set_title("fraction of bare")


def _draw_batches(axes: Axes, results: Results) -> None:
    """The share of batches a size, for the service on the light model."""
    cells = [c for c in results.cells if (c.server, c.model, c.media_type) == (SERVICE, results.light, RAW)]
    sizes = [cell.rounds[-1].batch_sizes for cell in cells]
    bounds = sorted({bound for size in sizes if size for bound in size.counts}, key=float)
    for index, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
        if size is None or not size.num_observations:
            continue
        shares = [size.counts.get(bound, 0.0) / size.num_observations for bound in bounds]
        places = [place + (index - 1) * 0.27 for place in range(len(bounds))]
        axes.bar(places, shares, 0.25, label=f"{cell.concurrency} caller{'s' * (cell.concurrency > 1)}")
    axes.set_xticks(range(len(bounds)), [f"≤{bound.removesuffix('.0')}" for bound in bounds], fontsize=8)
    axes.set_xlabel("rows in a batch")
    axes.set_ylabel("share of batches")
    axes.set_title(f"{SERVICE}, {results.light}, raw: batch sizes")
    if axes.containers:
        axes.legend(fontsize=7)


def draw(path: Path, results: Results) -> None:
    """Write the chart as PNG."""
    figure, (rates, fractions, batches) = pyplot.subplots(1, 3, figsize=(18, 6.5), layout="constrained")
    _draw_rates(rates, results)
    _draw_fractions(fractions, results)
    _draw_batches(batches, results)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
