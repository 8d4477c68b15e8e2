"""Writes a run's `report.md` with its pictures: learning curves, confusion matrix, and the wrongest test images.

It owns the page's layout and knows neither torch nor the network; figures come from NumPy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models.manifest import Manifest
from training.evaluate import Scores
from training.formats import Images, Labels
from training.markdown import table

CURVES_FILE = "curves.png"
CONFUSION_FILE = "confusion.png"
WRONGEST_FILE = "wrongest.png"
REPORT_FILE = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report tells: the exported manifest, the scores, the history by epoch, and the test split."""

    manifest: Manifest
    history: list[dict[str, float]]
    best_epoch: int
    held_out: Scores
    test: Scores
    test_images: Images
    test_labels: Labels


def write_report(folder: Path, report: Report) -> Path:
    """Write the page and its pictures into `folder`; returns the page."""
    _curves(report).savefig(folder / CURVES_FILE, dpi=110)
    _confusion(report).savefig(folder / CONFUSION_FILE, dpi=110)
    _wrongest(report).savefig(folder / WRONGEST_FILE, dpi=110)
    page = folder / REPORT_FILE
    page.write_text("\n\n".join(_sections(report)) + "\n", encoding="utf-8")
    return page


def _sections(report: Report) -> list[str]:
    manifest = report.manifest
    training = manifest.training
    assert training is not None and manifest.parity is not None  # noqa: PT018
    test_name = next(item.dataset for item in manifest.evaluation if item.split == "test")
    return [
        f"# {manifest.name}, version {manifest.version}",
        manifest.description,
        table(
            ("figure", "value"),
            [
                (f"test accuracy ({test_name}, {report.test.count:,} images)", f"{report.test.accuracy:.2%}"),
                (f"held-out accuracy ({report.held_out.count:,} images)", f"{report.held_out.accuracy:.2%}"),
                ("selected epoch", f"{report.best_epoch} of {len(report.history)}"),
                ("parameters", f"{training.parameters:,}"),
                ("training time", f"{training.seconds / 60:.1f} minutes on {training.device}"),
                ("largest torch-to-ONNX difference", f"{manifest.parity.max_abs_error:.1e}"),
                ("commit", training.commit),
                ("data SHA-256", training.dataset_sha256),
            ],
        ),
        "The test split was read once, after the weights were selected on the held-out part of the train split.",
        f"## Learning curves\n\n![Loss and accuracy by epoch]({CURVES_FILE})",
        "## Accuracy by class\n\n" + _class_table(report),
        f"## Confusion matrix\n\n![True class by predicted class, counts]({CONFUSION_FILE})",
        f"## Wrongest test images\n\nErrors by falling confidence.\n\n![Wrongest test images]({WRONGEST_FILE})",
        "## Settings\n\n" + table(("setting", "value"), [(k, str(v)) for k, v in training.config.items()]),
        "## Libraries\n\n" + table(("library", "version"), list(training.libraries.items())),
    ]


def _class_table(report: Report) -> str:
    labels = report.manifest.labels or ()
    shares = report.test.class_accuracy
    counts = report.test.confusion.sum(axis=1)
    rows = [(label, f"{share:.2%} of {count}") for label, share, count in zip(labels, shares, counts, strict=True)]
    return table(("class", "accuracy"), rows)


def _curves(report: Report) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in report.history]
    scored = [row for row in report.history if "held_out_accuracy" in row]
    scored_epochs = [row["epoch"] for row in scored]
    loss_axes.plot(epochs, [row["loss"] for row in report.history], label="train (augmented, smoothed)")
    loss_axes.plot(scored_epochs, [row["held_out_loss"] for row in scored], label="held out, averaged weights")
    loss_axes.set(xlabel="epoch", ylabel="cross-entropy, nats")
    accuracy_axes.plot(epochs, [row["train_accuracy"] for row in report.history], label="train (augmented)")
    held_out = [row["held_out_accuracy"] for row in scored]
    accuracy_axes.plot(scored_epochs, held_out, label="held out, averaged weights")
    accuracy_axes.axvline(report.best_epoch, color="grey", linestyle=":", label="selected")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy", ylim=(max(0.0, min(held_out) - 0.05), 1.0))
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _confusion(report: Report) -> Figure:
    labels = report.manifest.labels or ()
    confusion = report.test.confusion
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            color = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def _wrongest(report: Report, num_columns: int = 9) -> Figure:
    labels = report.manifest.labels or ()
    rows = report.test.wrongest
    num_lines = max(-(-len(rows) // num_columns), 1)
    figure = Figure(figsize=(1.3 * num_columns, 1.75 * num_lines), layout="constrained")
    for place, axes in enumerate(figure.subplots(num_lines, num_columns, squeeze=False).flat):
        axes.set_axis_off()
        if place >= len(rows):
            continue
        row = int(rows[place])
        image = report.test_images[row]
        axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
        confidence = report.test.confidence[row]
        called, true = labels[report.test.predicted[row]], labels[report.test_labels[row]]
        axes.set_title(f"{called} {confidence:.2f}\nis {true}", fontsize=7)
    return figure
