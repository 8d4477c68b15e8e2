"""Describes a finished generator for its manifest: scores with what they count, and the lineage.

It owns the words; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.manifest import Evaluation, Training
from training.data import SOURCES
from training.export import ModelCard
from training.generators.finished import FinishedGenerator
from training.generators.likelihood_scores import LikelihoodScores
from training.generators.scoring import METRIC, GeneratorScores
from training.provenance import LIBRARIES, commit_of, describe_device, library_versions

AGREEMENT = "share of pictures that the classifier calls by their label"
ACCURACY = "accuracy on real test pictures of a classifier trained on generated pictures alone"
_REFERENCE = "test"


def generator_card(finished: FinishedGenerator, version: str) -> ModelCard:
    """Describe a run; `parameters` of the lineage are of what ships."""
    config, source = finished.config, SOURCES[finished.config.dataset]
    lineage = Training(
        script=finished.script,
        config=config.to_json(),
        seed=config.seed,
        dataset_sha256=finished.dataset.sha256(),
        commit=commit_of(Path(__file__).parent),
        seconds=round(finished.progress.seconds, 1),
        device=describe_device(finished.device),
        parameters=next(iter(finished.parameters.values())),
        libraries=library_versions((*LIBRARIES, "scikit-learn")),
    )
    return ModelCard(
        name=finished.name,
        version=version,
        description=finished.summary,
        labels=finished.dataset.labels,
        light_on_dark=source.light_on_dark,
        margin=source.margin,
        evaluation=tuple(evaluation_entries(finished)),
        training=lineage,
    )


def evaluation_entries(finished: FinishedGenerator) -> Iterator[Evaluation]:
    """List all scores, each with the pictures that it counts."""
    dataset = finished.dataset.name
    for place, (drawn, scores) in enumerate(finished.scores.items()):
        yield from _distances(dataset, drawn, scores, calibrated=place == 0)
        yield from _of_labels(dataset, drawn, scores)
    if finished.likelihood is not None:
        yield from _likelihoods(dataset, finished.likelihood)


def _distances(dataset: str, drawn: str, scores: GeneratorScores, *, calibrated: bool) -> Iterator[Evaluation]:
    """The rows against the test split; calibration rows once, for they are the same for every way to draw."""
    for row in scores.rows if calibrated else (scores.generated,):
        name = drawn if row is scores.generated else row.name
        figures = {METRIC: row.frechet, "kernel distance (KID)": row.kernel}
        figures |= {"precision": row.precision, "recall": row.recall}
        for metric, value in figures.items():
            split = f"{name}, against {_REFERENCE}"
            yield Evaluation(metric=metric, value=value, dataset=dataset, split=split, count=row.count)


def _of_labels(dataset: str, drawn: str, scores: GeneratorScores) -> Iterator[Evaluation]:
    if scores.agreement is not None:
        count = scores.generated.count
        yield Evaluation(metric=AGREEMENT, value=scores.agreement, dataset=dataset, split=drawn, count=count)
    if scores.accuracy_from_generated is not None:
        yield Evaluation(
            metric=ACCURACY,
            value=scores.accuracy_from_generated,
            dataset=dataset,
            split=f"{_REFERENCE}; {drawn}",
            count=scores.num_reference,
        )


def _likelihoods(dataset: str, scores: LikelihoodScores) -> Iterator[Evaluation]:
    figures = {
        "rate, nats": (scores.rate.mean, scores.count),
        "distortion, nats": (scores.distortion.mean, scores.count),
        "ELBO, nats": (scores.elbo.mean, scores.count),
        "ELBO, bits a value": (scores.bits_a_value, scores.count),
        f"IWAE-{scores.iwae_samples}, nats": (scores.iwae.mean, scores.iwae_count),
        f"bound of PCA with {scores.linear_components} components, nats": (scores.linear.mean, scores.count),
    }
    for metric, (value, count) in figures.items():
        yield Evaluation(metric=metric, value=value, dataset=dataset, split=_REFERENCE, count=count)
