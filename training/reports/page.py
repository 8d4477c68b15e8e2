"""What every report shares: tables in Markdown, learning curves, and the page from its title to the libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.manifest import Manifest
from training.loop import Progress

CURVES_FILE = "curves.png"
REPORT_FILE = "report.md"
# Evaluations that the page lists; the picture shows all.
_NUM_ROWS = 12

History = list[dict[str, float]]


class Panel(NamedTuple):
    """A panel of the curves: its y axis, and lines as (name in the history, label)."""

    subject: str
    lines: tuple[tuple[str, str], ...]
    logarithmic: bool = False


class Axis(NamedTuple):
    """What the curves are drawn over: a name in the history, a label, and what a unit of the label is worth."""

    name: str = "step"
    label: str = "step"
    unit: float = 1.0


STEPS = Axis()


class Column(NamedTuple):
    """A column of the history's table."""

    name: str
    header: str
    form: str = ".4f"


def write_page(
    folder: Path,
    manifest: Manifest,
    progress: Progress,
    *,
    figures: Sequence[tuple[str, str]],
    sections: Sequence[str],
    panels: Sequence[Panel],
    columns: Sequence[Column],
    axis: Axis = STEPS,
) -> Path:
    """Write the page and its curves into `folder`; returns the page.

    `figures` open the first table, `sections` stand before the curves, `columns` are those of the history's table.
    """
    training, parity = manifest.training, manifest.parity
    assert training is not None
    assert parity is not None
    # The page needs nothing but its folder: pictures lie beside it.
    draw_curves(progress, panels, axis).savefig(folder / CURVES_FILE, dpi=110, facecolor="white")
    counted = [
        *figures,
        *((("selected step", f"{progress.best_step:,} of {progress.step:,}"),) if progress.best_step else ()),
        ("parameters that ship", f"{training.parameters:,}"),
        ("steps", f"{progress.step:,}"),
        ("training time", f"{training.seconds / 60:.1f} minutes on {training.device}"),
        ("largest torch-to-ONNX difference", f"{parity.max_abs_error:.1e}"),
        ("commit", training.commit),
        ("data SHA-256", training.dataset_sha256),
    ]
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        manifest.description,
        table(("figure", "value"), counted),
        *sections,
        f"## Learning curves\n\n![Learning curves]({CURVES_FILE})\n\n" + history_table(progress.history, columns),
        "## Settings\n\n" + table(("setting", "value"), [(key, str(value)) for key, value in training.config.items()]),
        "## Libraries\n\n" + table(("library", "version"), list(training.libraries.items())),
    ]
    page = folder / REPORT_FILE
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells under a header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def history_table(history: History, columns: Sequence[Column]) -> str:
    """Lay out a dozen evaluations, evenly spread, the last one included, with the minutes they were reached in."""
    # Rounded up, so that there are never more than a dozen.
    stride = -(-len(history) // _NUM_ROWS)
    picked = [row for index, row in enumerate(history) if index % stride == stride - 1 or index == len(history) - 1]
    return table(
        ("step", *(column.header for column in columns), "minutes"),
        [
            (
                f"{row['step']:.0f}",
                *(format(row[column.name], column.form) for column in columns),
                f"{row['seconds'] / 60:.1f}",
            )
            for row in picked
        ],
    )


def draw_curves(progress: Progress, panels: Sequence[Panel], axis: Axis = STEPS) -> Figure:
    """Draw the history, a panel a subject, on white, so that it is legible on a dark page, too."""
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    history = progress.history
    selected = [row[axis.name] / axis.unit for row in history if row["step"] == progress.best_step]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        _draw_panel(axes, panel, history, axis)
        for place in selected:
            axes.axvline(place, color="grey", linestyle=":", label="selected")
        axes.legend()
    return figure


def _draw_panel(axes: Axes, panel: Panel, history: History, axis: Axis) -> None:
    places = [row[axis.name] / axis.unit for row in history]
    # A history of one row is a point and no line.
    marker = "o" if len(places) < 3 else None
    for name, label in panel.lines:
        axes.plot(places, [row[name] for row in history], label=label, marker=marker)
    axes.set(xlabel=axis.label, ylabel=panel.subject)
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
