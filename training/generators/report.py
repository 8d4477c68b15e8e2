"""Writes the `report.md` of a generator: figures, pictures, all scores beside their calibration, curves, settings.

It owns the page's layout; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.manifest import Manifest
from training.generators.curves import draw_curves, panels_of
from training.generators.finished import FinishedGenerator
from training.generators.score_tables import (
    agreement_table,
    distance_section,
    likelihood_section,
    seed_section,
)
from training.generators.stretches import Progress
from training.markdown import table

CURVES_FILE = "curves.png"
REPORT_FILE = "report.md"
_NUM_ROWS = 12

# Pictures that lie in the run folder: heading, file, what they show.
Plate = tuple[str, str, str]


def write_generator_report(
    output: Path, finished: FinishedGenerator, manifest: Manifest, plates: Sequence[Plate]
) -> Path:
    """Write the page and its curves into `output`, where the plates lie already; returns the page."""
    draw_curves(finished.progress).savefig(output / CURVES_FILE, dpi=110, facecolor="white")
    page = output / REPORT_FILE
    page.write_text("\n\n".join(_sections(finished, manifest, plates)) + "\n", encoding="utf-8")
    return page


def _sections(finished: FinishedGenerator, manifest: Manifest, plates: Sequence[Plate]) -> list[str]:
    training = manifest.training
    assert training is not None
    return [
        f"# {manifest.name}, version {manifest.version}",
        manifest.description,
        table(("figure", "value"), _figures(finished, manifest)),
        *(f"## {heading}\n\n![{heading}]({file})\n\n{what}" for heading, file, what in plates),
        *_scores(finished),
        f"## Learning curves\n\n![Learning curves by step]({CURVES_FILE})\n\n" + _history_table(finished.progress),
        "## Settings\n\n" + table(("setting", "value"), [(k, str(v)) for k, v in training.config.items()]),
        "## Libraries\n\n" + table(("library", "version"), list(training.libraries.items())),
    ]


def _scores(finished: FinishedGenerator) -> list[str]:
    if not finished.scores:
        return ["## Scores\n\nNot scored."]
    sections = ["## Scores of pictures\n\n" + distance_section(finished.scores)]
    sections += [
        f"## Labels: {drawn}\n\n" + agreement_table(scores)
        for drawn, scores in finished.scores.items()
        if scores.agreement is not None
    ]
    if finished.likelihood is not None:
        sections.append("## Likelihood\n\n" + likelihood_section(finished.likelihood))
    if finished.seeds:
        sections.append("## Seeds\n\n" + seed_section(finished.seeds))
    return sections


def _figures(finished: FinishedGenerator, manifest: Manifest) -> list[tuple[str, str]]:
    training, parts = manifest.training, finished.parts
    assert training is not None and manifest.parity is not None  # noqa: PT018
    return [
        *((f"parameters, {network}", f"{count:,}") for network, count in finished.parameters.items()),
        (
            "pictures",
            f"{len(parts.train):,} to train on, {len(parts.held_out):,} held out, {len(parts.test):,} of test",
        ),
        ("data set", f"{finished.dataset.description} ({finished.dataset.name})"),
        ("steps", f"{finished.progress.step:,}"),
        ("training time", f"{training.seconds / 60:.1f} minutes on {training.device}"),
        ("largest torch-to-ONNX difference", f"{manifest.parity.max_abs_error:.1e}"),
        ("commit", training.commit),
        ("data SHA-256", training.dataset_sha256),
    ]


def _history_table(progress: Progress) -> str:
    rows = progress.history
    stride = -(-len(rows) // _NUM_ROWS)
    picked = [row for index, row in enumerate(rows) if index % stride == stride - 1 or index == len(rows) - 1]
    names = [name for _, lines in panels_of(progress) for name, _ in lines]
    return table(
        ("step", *(name.replace("_", " ") for name in names), "minutes"),
        [
            (f"{row['step']:.0f}", *(f"{row[name]:.4g}" for name in names), f"{row['seconds'] / 60:.1f}")
            for row in picked
        ],
    )
