"""The report of a classifier: scores, accuracy by class, confusion matrix, and the wrongest test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models.manifest import Manifest
from training.data.datasets import Dataset
from training.loop import Progress
from training.reports.page import Axis, Column, Panel, table, write_page
from training.scores.classification import Scores

CONFUSION_FILE = "confusion.png"
WRONGEST_FILE = "wrongest.png"
_PANELS = (
    Panel(
        "cross-entropy, nats",
        (("loss", "train (augmented, smoothed)"), ("held_out_loss", "held out, averaged weights")),
    ),
    Panel("accuracy", (("train_accuracy", "train (augmented)"), ("held_out_accuracy", "held out, averaged weights"))),
)
_COLUMNS = (
    Column("epoch", "epoch", ".0f"),
    Column("loss", "training loss"),
    Column("held_out_loss", "held-out loss"),
    Column("held_out_accuracy", "held-out accuracy"),
)


def write_classifier_report(
    folder: Path,
    manifest: Manifest,
    progress: Progress,
    steps_per_epoch: int,
    held_out: Scores,
    test: Scores,
    dataset: Dataset,
) -> Path:
    """Write the page and its pictures into `folder`; returns the page."""
    _confusion(test, dataset).savefig(folder / CONFUSION_FILE, dpi=110)
    _wrongest(test, dataset).savefig(folder / WRONGEST_FILE, dpi=110)
    novelty = manifest.novelty
    return write_page(
        folder,
        manifest,
        progress,
        figures=[
            (f"test accuracy ({dataset.name}, {test.count:,} images)", f"{test.accuracy:.2%}"),
            (f"held-out accuracy ({held_out.count:,} images)", f"{held_out.accuracy:.2%}"),
            *([("test images that are called novel", f"{novelty.test_share:.2%}")] if novelty else []),
            (
                "selected epoch",
                f"{progress.best_step // steps_per_epoch} of {progress.step // steps_per_epoch}",
            ),
        ],
        sections=[
            "The test split was read once, after the weights were selected on the held-out part of the train split.",
            "## Accuracy by class\n\n" + _class_table(test, dataset),
            f"## Confusion matrix\n\n![True class by predicted class, counts]({CONFUSION_FILE})",
            f"## Wrongest test images\n\nErrors by falling confidence.\n\n![Wrongest test images]({WRONGEST_FILE})",
        ],
        panels=_PANELS,
        columns=_COLUMNS,
        axis=Axis("epoch", "epoch"),
    )


def _class_table(test: Scores, dataset: Dataset) -> str:
    counts = test.confusion.sum(axis=1)
    rows = [
        (label, f"{share:.2%} of {count}")
        for label, share, count in zip(dataset.labels, test.class_accuracy, counts, strict=True)
    ]
    return table(("class", "accuracy"), rows)


def _confusion(test: Scores, dataset: Dataset) -> Figure:
    labels, confusion = dataset.labels, test.confusion
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # By its root: the few errors, which are what one looks for, would be white beside the diagonal.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            color = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def _wrongest(test: Scores, dataset: Dataset, num_columns: int = 9) -> Figure:
    labels, rows = dataset.labels, test.wrongest
    num_lines = max(-(-len(rows) // num_columns), 1)
    figure = Figure(figsize=(1.3 * num_columns, 1.75 * num_lines), layout="constrained")
    for place, axes in enumerate(figure.subplots(num_lines, num_columns, squeeze=False).flat):
        axes.set_axis_off()
        if place >= len(rows):
            continue
        row = int(rows[place])
        image = dataset.test_images[row]
        axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
        confidence = test.confidence[row]
        called, true = labels[test.predicted[row]], labels[dataset.test_labels[row]]
        axes.set_title(f"{called} {confidence:.2f}\nis {true}", fontsize=7)
    return figure
