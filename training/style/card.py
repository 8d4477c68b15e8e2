"""Describes a finished style-transfer run for its manifest: scores with what they count, and the lineage.

It owns the words; it measures nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.manifest import Evaluation, Training
from training.networks.size import num_parameters
from training.provenance import commit_of, describe_device, library_versions
from training.style.export import StyleCard
from training.style.finished import FinishedStyleRun
from training.style.optimization import OPTIMIZERS
from training.style.pictures import sha256_of
from training.style.scoring import Scores


def style_card(finished: FinishedStyleRun, version: str) -> StyleCard:
    """Describe a run."""
    start = finished.start
    config = start.config.to_json() | {"styles": [painting.name for painting in start.paintings]}
    if start.based_on is not None:
        config |= {"based_on": start.based_on, "first_style": start.first_style}
    lineage = Training(
        script="training.train_style",
        config=config,
        seed=start.config.seed,
        dataset_sha256=data_sha256(finished),
        commit=commit_of(Path(__file__).parent),
        seconds=round(finished.progress.seconds, 1),
        device=describe_device(finished.device),
        parameters=num_parameters(start.network),
        libraries=library_versions(),
    )
    names = ", ".join(painting.name.replace("_", " ") for painting in start.paintings)
    return StyleCard(
        name=finished.name,
        version=version,
        description=f"Paints photographs in {len(start.paintings)} styles and their blends: {names}.",
        evaluation=evaluation_entries(finished.dataset, finished.scores) if finished.scores else (),
        training=lineage,
    )


def data_sha256(finished: FinishedStyleRun) -> str:
    """Hash the photographs and the paintings, in the network's order."""
    paintings = sha256_of(painting.picture for painting in finished.start.paintings)
    return hashlib.sha256(f"{finished.photographs.sha256} {paintings}".encode()).hexdigest()


def evaluation_entries(dataset: str, scores: Scores) -> tuple[Evaluation, ...]:
    """List Gatys@k by optimiser: the mean of the styles, then each style; `count` is photographs."""
    entries = []
    for optimizer in OPTIMIZERS:
        metric = f"gatys_k_{optimizer}"
        mean = scores.mean_steps(optimizer)
        entries.append(
            Evaluation(metric=metric, value=mean, dataset=dataset, split="held-out", count=len(scores.pairs))
        )
        entries += [
            Evaluation(
                metric=metric,
                value=scores.mean_steps(optimizer, style),
                dataset=dataset,
                split=f"held-out, {style}",
                count=len(scores.of(style)),
            )
            for style in scores.styles()
        ]
    return tuple(entries)
