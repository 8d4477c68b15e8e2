"""Draws cells as panels of bars or lines, side by side in one PNG. It knows no benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.results import BARE, SERVICE, Cell

_COLOURS = {SERVICE: "#c8501e", BARE: "#8a9aa8"}
_PALETTE = ("#3b6ea5", "#e8a06a", "#3b7a57", "#8d6a9f", "#d9a441", "#5fb0b7", "#222222")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: values a series, one for each category, None where there is none.

    Bars lie on their side, categories from top to bottom; lines have numbers for categories where these are numbers.
    `limit` is a dashed line; `colours` are by category.
    """

    title: str
    unit: str
    categories: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    kind: Literal["bars", "stacked", "lines"] = "bars"
    limit: float | None = None
    is_log: bool = False
    digits: int = 0
    colours: Sequence[str] | None = None


def bars(
    title: str, unit: str, cells: Sequence[Cell], label: Callable[[Cell], str], figure: str, digits: int = 0
) -> Panel:
    """A bar for each cell, in the colour of its server."""
    servers = [str(cell.case["server"]) for cell in cells]
    return Panel(
        title=title,
        unit=unit,
        categories=list(map(label, cells)),
        series={figure: [cell.median(figure) for cell in cells]},
        digits=digits,
        colours=[_COLOURS.get(server, _PALETTE[0]) for server in servers],
    )


def grouped(
    title: str,
    unit: str,
    cells: Sequence[Cell],
    names: tuple[Callable[[Cell], str], Callable[[Cell], str]],
    figure: str,
) -> Panel:
    """Bars side by side; `names` give a cell's category and its series."""
    category, series = names
    found = {(category(cell), series(cell)): cell.median(figure) for cell in cells}
    categories = list(dict.fromkeys(name for name, _ in found))
    values = {name: [found.get((each, name)) for each in categories] for _, name in found}
    return Panel(title=title, unit=unit, categories=categories, series=values)


def _draw_bars(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    is_stacked = panel.kind == "stacked"
    width = 0.8 if is_stacked else 0.8 / len(panel.series)
    left = [0.0] * len(panel.categories)
    for index, (name, values) in enumerate(panel.series.items()):
        shift = 0.0 if is_stacked else (index + 0.5) * width - 0.4
        spots = [spot + shift for spot in range(len(values))]
        lengths = [value or 0.0 for value in values]
        drawn = axes.barh(spots, lengths, width * 0.92, left=left, label=name, color=panel.colours or colours[name])
        if is_stacked:
            left = [start + length for start, length in zip(left, lengths, strict=True)]
        else:
            labels = ["" if value is None else f"{value:.{panel.digits}f}" for value in values]
            axes.bar_label(drawn, labels, padding=2, fontsize=7)
    axes.set_yticks(range(len(panel.categories)), panel.categories, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(panel.unit)
    if panel.limit is not None:
        axes.axvline(panel.limit, color="black", linestyle="--", linewidth=1)


def _draw_lines(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    is_numeric = all(category.isdigit() for category in panel.categories)
    spots = list(map(int, panel.categories)) if is_numeric else list(range(len(panel.categories)))
    for name, values in panel.series.items():
        points = [(spot, value) for spot, value in zip(spots, values, strict=True) if value is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", label=name, color=colours[name])
    axes.set_xticks(spots, panel.categories)
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3, axis="y")
    if panel.is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if panel.limit is not None:
        axes.axhline(panel.limit, color="black", linestyle="--", linewidth=1)


def draw(path: Path, panels: Sequence[Panel], title: str = "") -> None:
    """Write the panels that have anything to show, three a row."""
    shown = [panel for panel in panels if panel.categories and panel.series]
    num_columns, num_rows = min(3, len(shown)) or 1, -(-len(shown) // 3) or 1
    num_bars = [len(panel.categories) * len(panel.series) for panel in shown if panel.kind != "lines"]
    size = (6 * num_columns, num_rows * (3 + 0.2 * max(8, *num_bars, 0)))
    figure = Figure(figsize=size, layout="constrained")
    for index, panel in enumerate(shown):
        axes, palette = figure.add_subplot(num_rows, num_columns, index + 1), iter(_PALETTE * len(panel.series))
        colours = {name: _COLOURS.get(name) or next(palette) for name in panel.series}
        (_draw_lines if panel.kind == "lines" else _draw_bars)(axes, panel, colours)
        axes.set_title(panel.title, fontsize=10)
        if len(panel.series) > 1:
            axes.legend(fontsize=7)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=80, facecolor="white")
