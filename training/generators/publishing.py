"""Exports a finished generator and writes its report: the last step of both trainings.

It owns their order only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from tqdm import tqdm

from models.manifest import read_manifest
from training.generators.card import generator_card
from training.generators.command_line import Job
from training.generators.export import export_generator
from training.generators.finished import FinishedGenerator
from training.generators.parity import NUM_COMPARED_ROWS, Rows
from training.generators.report import REPORT_FILE, Plate, write_generator_report


def publish(
    finished: FinishedGenerator,
    graphs: Mapping[str, nn.Module],
    labelled: frozenset[str],
    plates: Sequence[Plate],
    job: Job,
) -> None:
    """Export the version and write the report; `labelled` names the graphs that take a label.

    Raises: ExportError.
    """
    rows = Rows(
        images=job.dataset.test_images[:NUM_COMPARED_ROWS],
        labels=job.dataset.test_labels[:NUM_COMPARED_ROWS],
        num_labels=len(job.dataset.labels),
        latent=finished.config.latent,
        labelled=labelled,
    )
    folder = export_generator(graphs, rows, generator_card(finished, job.version), job.repository)
    write_generator_report(job.output, finished, read_manifest(folder), plates)
    tqdm.write(f"exported to {folder}, report in {job.output / REPORT_FILE}")
