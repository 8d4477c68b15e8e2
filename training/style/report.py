"""Writes the `report.md` of a style-transfer run: figures, the Gatys@k table, curves, the grid, settings, libraries.

It owns the page's layout; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from models.manifest import Manifest
from training.markdown import table
from training.style.card import data_sha256
from training.style.finished import FinishedStyleRun
from training.style.optimization import OPTIMIZERS
from training.style.scoring import Scores, Terms
from training.style.trainer import Progress

CURVES_FILE = "curves.png"
PREVIEW_FILE = "preview.jpg"
REPORT_FILE = "report.md"
_NUM_ROWS = 12


def write_style_report(output: Path, finished: FinishedStyleRun, manifest: Manifest) -> Path:
    """Write the page and its curves into `output`, where the preview lies already; returns the page."""
    draw_curves(finished.progress).savefig(output / CURVES_FILE, dpi=110, facecolor="white")
    page = output / REPORT_FILE
    page.write_text("\n\n".join(_sections(finished, manifest)) + "\n", encoding="utf-8")
    return page


def _sections(finished: FinishedStyleRun, manifest: Manifest) -> list[str]:
    training = manifest.training
    assert training is not None
    scores = finished.scores
    return [
        f"# {manifest.name}, version {manifest.version}",
        manifest.description,
        table(("figure", "value"), _figures(finished, manifest)),
        f"## Photographs and styles\n\n![Photographs down, styles across]({PREVIEW_FILE})\n\n"
        "The photographs were held out.",
        "## Gatys@k\n\n" + (score_table(scores) + "\n\n" + _how_scored(scores) if scores else "Not scored."),
        f"## Learning curves\n\n![Losses by step]({CURVES_FILE})\n\n" + _history_table(finished.progress),
        "## Settings\n\n" + table(("setting", "value"), [(k, str(v)) for k, v in training.config.items()]),
        "## Libraries\n\n" + table(("library", "version"), list(training.libraries.items())),
    ]


def _figures(finished: FinishedStyleRun, manifest: Manifest) -> list[tuple[str, str]]:
    training, photographs = manifest.training, finished.photographs
    assert training is not None and manifest.parity is not None  # noqa: PT018
    rows = [
        ("parameters", f"{training.parameters:,}"),
        ("photographs", f"{len(photographs.train):,} to train on, {len(photographs.held_out)} held out"),
        ("steps", f"{finished.progress.step:,}"),
        ("training time", f"{training.seconds / 60:.1f} minutes on {training.device}"),
        ("largest torch-to-ONNX difference", f"{manifest.parity.max_abs_error:.1e}"),
        ("commit", training.commit),
        ("data SHA-256", data_sha256(finished)),
    ]
    if finished.scores:
        means = " and ".join(f"{finished.scores.mean_steps(name):.1f} ({name})" for name in OPTIMIZERS)
        rows.insert(0, ("Gatys@k, mean of the styles", means))
    if finished.start.based_on:
        rows.append(("added to", f"{finished.start.based_on}: only the last style was trained"))
    return rows


def score_table(scores: Scores) -> str:
    """Lay out k by style, and the losses of the network's paintings and of the photographs, as means."""
    header = ("style", "photographs", *(f"{name}: mean k" for name in OPTIMIZERS))
    header += (*(f"{name}: median k" for name in OPTIMIZERS), "content", "style", "total", "photograph's total")
    rows = []
    for style in scores.styles():
        pairs = scores.of(style)
        painted = _mean([pair.network for pair in pairs])
        means = [_steps(scores, name, style) for name in OPTIMIZERS]
        medians = [f"{scores.median_steps(name, style):g}" for name in OPTIMIZERS]
        terms = [f"{value:.3f}" for value in (painted.content, painted.style, painted.total)]
        untouched = f"{_mean([pair.untouched for pair in pairs]).total:.3f}"
        rows.append((style, str(len(pairs)), *means, *medians, *terms, untouched))
    overall = [f"**{scores.mean_steps(name):.1f}**" for name in OPTIMIZERS]
    rows.append(("**mean of the styles**", str(len(scores.pairs)), *overall, *[""] * (len(header) - 4)))
    return table(header, rows)


def _steps(scores: Scores, optimizer: str, style: str) -> str:
    """Mean k; a lower bound where the optimiser did not win on every photograph."""
    mean = f"{scores.mean_steps(optimizer, style):.1f}"
    return f">= {mean}" if scores.num_capped(optimizer, style) else mean


def _mean(terms: Sequence[Terms]) -> Terms:
    return Terms(fmean(t.content for t in terms), fmean(t.style for t in terms), fmean(t.total for t in terms))


def _how_scored(scores: Scores) -> str:
    protocol = scores.protocol
    return (
        "k is the first number of optimisation steps (Gatys et al. 2016, on the loss that the network was trained "
        "with, the balanced weights of the styles included) after which the optimised picture has a lower total loss "
        "than the network's painting. Every step is one evaluation of the loss and its gradient; both optimisers "
        f"begin at the photograph. Adam: learning rate {scores.adam_rate:g} of 255, the one of "
        f"{', '.join(f'{rate:g}' for rate in protocol.adam_rates)} that needs the fewest steps on "
        f"{protocol.num_tuned} training photographs, pictures kept within 0 to 255. L-BFGS: step "
        f"{protocol.lbfgs_rate:g} without line search, pictures not bounded, which can only lower its loss. "
        f"A run ends after {protocol.max_steps} steps; where one ended so, k counts as {protocol.max_steps} and the "
        "mean is marked >=. float32, unrounded pictures, middle squares of held-out photographs; the styles share the "
        "photographs among them. Style terms are 1 for the average photograph, content terms 1 for an unrelated one."
    )


def _history_table(progress: Progress) -> str:
    rows = progress.history
    stride = -(-len(rows) // _NUM_ROWS)
    picked = [row for index, row in enumerate(rows) if index % stride == stride - 1 or index == len(rows) - 1]
    names = ("train_loss", "held_out_loss", "content", "style")
    return table(
        ("step", "training loss", "held-out loss", "content term", "style term", "minutes"),
        [
            (f"{row['step']:.0f}", *(f"{row[name]:.4f}" for name in names), f"{row['seconds'] / 60:.1f}")
            for row in picked
        ],
    )


def draw_curves(progress: Progress) -> Figure:
    """Draw the losses and their held-out terms by step, on white, so that it is legible on a dark page, too."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    total_axes, term_axes = figure.subplots(1, 2)
    steps = [row["step"] for row in progress.history]
    marker = "o" if len(steps) < 3 else None
    total_axes.plot(steps, [row["train_loss"] for row in progress.history], label="training", marker=marker)
    total_axes.plot(steps, [row["held_out_loss"] for row in progress.history], label="held out", marker=marker)
    for name in ("content", "style"):
        term_axes.plot(steps, [row[name] for row in progress.history], label=f"{name}, held out", marker=marker)
    total_axes.set(xlabel="step", ylabel="total loss")
    term_axes.set(xlabel="step", ylabel="term, relative", yscale="log")
    for axes in (total_axes, term_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
