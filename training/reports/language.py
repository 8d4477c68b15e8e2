"""The report of a language model: scores with how they were measured, learning curves, and a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.manifest import Manifest
from training.loop import Progress
from training.reports.page import Axis, Column, Panel, table, write_page
from training.scores.text import TextScore

AXIS = Axis("tokens", "tokens read, millions", 1e6)
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
) -> Path:
    """Write the page and its curves into `output`; returns the page."""
    num_tokens = progress.step * config["tokens_per_step"]
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
        ],
        panels=PANELS,
        columns=_COLUMNS,
        axis=AXIS,
    )


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
