"""The report of a language model: scores with how they were measured, learning curves, gradients, and a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.manifest import Manifest
from training.loop import Progress
from training.reports.page import Axis, Column, Panel, table, write_page
from training.scores.text import TextScore

AXIS = Axis("tokens", "tokens read, millions", 1e6)
GRADIENTS_FILE = "gradients.png"
PANELS = (
    Panel(
        "cross-entropy, nats per token",
        (("train_loss", "training (with dropout)"), ("validation_loss", "validation")),
    ),
)
_COLUMNS = (Column("train_loss", "training loss"), Column("validation_loss", "validation loss"))


def write_language_report(
    output: Path,
    manifest: Manifest,
    progress: Progress,
    config: Mapping[str, Any],
    scores: Mapping[str, TextScore],
    sample: str,
    gradient_norms: Sequence[float],
) -> Path:
    """Write the page and its pictures into `output`; returns the page. `gradient_norms` [T] end with the last token."""
    num_tokens = progress.step * config["tokens_per_step"]
    draw_gradients(gradient_norms).savefig(output / GRADIENTS_FILE, dpi=110, facecolor="white")
    rate = num_tokens / max(progress.seconds, 1e-9)
    return write_page(
        output,
        manifest,
        progress,
        figures=[
            ("tokens read in training", f"{num_tokens:,}"),
            ("training speed", f"{rate:,.0f} tokens/s, validations included"),
        ],
        sections=[
            "## Scores\n\n" + _score_table(scores) + "\n\n" + _how_scored(config["context"], scores),
            "## Sample\n\nFrom the beginning of a text, temperature 0.8:\n\n" + _quote(sample),
            f"## Gradients\n\n![Gradients by time step]({GRADIENTS_FILE})\n\n" + _gradient_table(gradient_norms),
        ],
        panels=PANELS,
        columns=_COLUMNS,
        axis=AXIS,
    )


def draw_gradients(norms: Sequence[float]) -> Figure:
    """Draw how the gradient of the last token's loss shrinks, or does not, on the way back through `norms` [T]."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    # A gradient that has vanished altogether has no logarithm: the line ends there.
    axes.plot(range(len(norms)), [norm or math.nan for norm in reversed(norms)])
    axes.set(xlabel="tokens back from the last", ylabel="norm of the gradient", yscale="log")
    axes.grid(alpha=0.3)
    return figure


def _gradient_table(norms: Sequence[float]) -> str:
    text = (
        "Of the last token's loss, with respect to the embedded tokens before it: the mean norm over windows of the "
        "validation text. Where it vanishes, nothing was learnt from tokens that far back, and nothing could be."
    )
    places = [0, *(2**power for power in range(len(norms).bit_length()) if 2**power < len(norms))]
    last = norms[-1] or math.nan
    rows = [(str(place), f"{norms[-1 - place]:.2e}", f"{norms[-1 - place] / last:.2e}") for place in places]
    return text + "\n\n" + table(("tokens back", "norm", "of that of the last token"), rows)


def _score_table(scores: Mapping[str, TextScore]) -> str:
    header = ("split", "nats per token", "bits per byte", "tokens", "bytes")
    rows = [
        (split, f"{s.nats_per_token:.4f}", f"{s.bits_per_byte:.4f}", f"{s.num_tokens:,}", f"{s.num_bytes:,}")
        for split, s in scores.items()
    ]
    return table(header, rows)


def _how_scored(context: int, scores: Mapping[str, TextScore]) -> str:
    text = (
        f"Windows of {context} tokens advance by a stride of {context // 2}; every token counts once and is predicted "
        f"from at least {context - context // 2} tokens before it, or all there are. float32, the selected weights."
    )
    if "test" in scores:
        return text + " The test text was read once, after the weights were selected on the validation text."
    return text + " This split has no test part: weights were selected on the validation text that is scored here."


def _quote(text: str) -> str:
    """Set a text as a code block whatever it contains: Markdown indents by four."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    (nothing)"
