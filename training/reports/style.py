"""The report of a stylizer: the Gatys@k table with how it was measured, the grid of paintings, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from models.manifest import Manifest
from training.data.photographs import Photographs
from training.loop import Progress
from training.reports.page import Column, Panel, table, write_page
from training.reports.pictures import PREVIEW_JPEG
from training.scores.gatys import OPTIMIZERS, Scores, Terms

_PANELS = (
    Panel("total loss", (("train_loss", "training"), ("held_out_loss", "held out"))),
    Panel("term, relative", (("content", "content, held out"), ("style", "style, held out")), logarithmic=True),
)
_COLUMNS = (
    Column("train_loss", "training loss"),
    Column("held_out_loss", "held-out loss"),
    Column("content", "content term"),
    Column("style", "style term"),
)


def write_style_report(
    output: Path, manifest: Manifest, progress: Progress, scores: Scores | None, photographs: Photographs
) -> Path:
    """Write the page and its curves into `output`, where the preview lies already; returns the page."""
    figures = [("photographs", f"{len(photographs.train):,} to train on, {len(photographs.held_out):,} held out")]
    if scores:
        means = " and ".join(f"{scores.mean_steps(name):.1f} ({name})" for name in OPTIMIZERS)
        figures.insert(0, ("Gatys@k, mean of the styles", means))
    if manifest.training and (based_on := manifest.training.config.get("based_on")):
        figures.append(("added to", f"{based_on}: only the last style was trained"))
    return write_page(
        output,
        manifest,
        progress,
        figures=figures,
        sections=[
            f"## Photographs and styles\n\n![Photographs down, styles across]({PREVIEW_JPEG})\n\n"
            "The photographs were held out.",
            "## Gatys@k\n\n" + (score_table(scores) + "\n\n" + _how_scored(scores) if scores else "Not scored."),
        ],
        panels=_PANELS,
        columns=_COLUMNS,
    )


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
