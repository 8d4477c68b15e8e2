"""Writes the `report.md` of a language-model run: scores, learning curves, a sample, settings and libraries.

It owns the page's layout; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from training.language.evaluation import TextScore
from training.language.finished import FinishedRun
from training.language.trainer import Progress
from training.markdown import table
from training.networks.size import num_parameters
from training.provenance import LIBRARIES, commit_of, describe_device, library_versions

CURVES_FILE = "curves.png"
REPORT_FILE = "report.md"
_ROOT = Path(__file__).resolve().parent.parent.parent
# Validations that the page lists; the picture shows all.
_NUM_ROWS = 12


def write_language_report(output: Path, finished: FinishedRun, folder: Path) -> Path:
    """Write the page and its picture into `output`; `folder` is the exported version. Returns the page."""
    draw_curves(finished.progress).savefig(output / CURVES_FILE, dpi=110, facecolor="white")
    page = output / REPORT_FILE
    page.write_text("\n\n".join(_sections(finished, folder)) + "\n", encoding="utf-8")
    return page


def _sections(finished: FinishedRun, folder: Path) -> list[str]:
    config, libraries = finished.config, library_versions((*LIBRARIES, "tokenizers"))
    return [
        f"# {finished.name}, version {folder.name}",
        f"A language model ({config.network}, {config.tokenizer} tokens) of {finished.corpus.description}.",
        table(("figure", "value"), _figures(finished)),
        "## Scores\n\n" + _score_table(finished.scores) + "\n\n" + _how_scored(finished),
        "## Learning curves\n\n"
        f"![Training and validation loss by tokens read]({CURVES_FILE})\n\n" + _history_table(finished.progress),
        "## Sample\n\nFrom the beginning of a text, temperature 0.8:\n\n" + _quote(finished.sample),
        "## Settings\n\n" + table(("setting", "value"), [(k, str(v)) for k, v in config.to_json().items()]),
        "## Libraries\n\n" + table(("library", "version"), list(libraries.items())),
    ]


def _figures(finished: FinishedRun) -> list[tuple[str, str]]:
    config, progress = finished.config, finished.progress
    num_tokens = progress.step * config.tokens_per_step
    rate = num_tokens / max(progress.seconds, 1e-9)
    parameters = num_parameters(finished.network)
    return [
        ("parameters", f"{parameters:,}"),
        ("tokens read in training", f"{num_tokens:,}"),
        ("training time", f"{progress.seconds / 60:.1f} minutes on {describe_device(finished.device)}"),
        ("training speed", f"{rate:,.0f} tokens/s, validations included"),
        ("selected step", f"{progress.best_step} of {progress.step}"),
        ("commit", commit_of(_ROOT)),
        ("data SHA-256", finished.corpus.sha256()),
    ]


def _score_table(scores: Mapping[str, TextScore]) -> str:
    header = ("split", "nats per token", "bits per byte", "tokens", "bytes")
    rows = [
        (split, f"{s.nats_per_token:.4f}", f"{s.bits_per_byte:.4f}", f"{s.num_tokens:,}", f"{s.num_bytes:,}")
        for split, s in scores.items()
    ]
    return table(header, rows)


def _how_scored(finished: FinishedRun) -> str:
    context = finished.config.context
    text = (
        f"Windows of {context} tokens advance by a stride of {context // 2}; every token counts once and is predicted "
        f"from at least {context - context // 2} tokens before it, or all there are. float32, the selected weights."
    )
    if "test" in finished.scores:
        return text + " The test text was read once, after the weights were selected on the validation text."
    return text + " This split has no test part: weights were selected on the validation text that is scored here."


def _history_table(progress: Progress) -> str:
    rows = progress.history
    stride = -(-len(rows) // _NUM_ROWS)
    picked = [row for index, row in enumerate(rows) if index % stride == stride - 1 or index == len(rows) - 1]
    return table(
        ("step", "training loss", "validation loss", "minutes"),
        [
            (f"{r['step']:.0f}", f"{r['train_loss']:.4f}", f"{r['validation_loss']:.4f}", f"{r['seconds'] / 60:.1f}")
            for r in picked
        ],
    )


def _quote(text: str) -> str:
    """Set a text as a code block whatever it contains: Markdown indents by four."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    (nothing)"


def draw_curves(progress: Progress) -> Figure:
    """Draw both losses by the tokens read, on white, so that it is legible on a dark page, too."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    tokens = [row["tokens"] / 1e6 for row in progress.history]
    # A run of one validation has one point and no line.
    marker = "o" if len(tokens) < 3 else None
    axes.plot(tokens, [row["train_loss"] for row in progress.history], label="training (with dropout)", marker=marker)
    axes.plot(tokens, [row["validation_loss"] for row in progress.history], label="validation", marker=marker)
    best = next((row["tokens"] / 1e6 for row in progress.history if row["step"] == progress.best_step), None)
    if best is not None:
        axes.axvline(best, color="grey", linestyle=":", label="selected")
    axes.set(title="Loss by tokens read", xlabel="tokens read, millions", ylabel="cross-entropy, nats per token")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure
