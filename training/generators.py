"""What the trainings of image generators, VAE and GAN, share: settings, flags, data, the manifest's scores, the end.

It owns the names of models and what a dry run is. It knows neither network's losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from models.manifest import Evaluation, read_manifest
from training.command_line import (
    IMAGE_DATA,
    add_image_flags,
    choose_device,
    destination,
    load_images,
    make_parser,
    model_name,
)
from training.data.datasets import Dataset, DatasetName, Parts, split
from training.data.formats import DataError
from training.export.generators import NUM_COMPARED_ROWS, Rows, export_generator
from training.export.version import DEFAULT_REPOSITORY, Destination, ModelCard, lineage
from training.loop import Trainer
from training.networks.vae import num_halvings
from training.reports.generators import Plate, write_generator_report
from training.reports.page import REPORT_FILE
from training.scores.generators import METRIC, ClassifierLesson, GeneratorScores, ScoringPlan
from training.scores.likelihood import LikelihoodPlan, LikelihoodScores
from training.settings import COUNT, DECAY, PART, Settings, given_settings, setting
from training.studies.siblings import SeedScores

AGREEMENT = "share of pictures that the classifier calls by their label"
ACCURACY = "accuracy on real test pictures of a classifier trained on generated pictures alone"
_REFERENCE = "test"
_DRY_ROWS = 60
_DRY_SETTINGS = {"num_steps": 2, "evaluate_every": 1, "batch_size": 8, "held_out": 20, "latent": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig(Settings):
    """What both trainings are set by."""

    dataset: DatasetName
    latent: int = setting(64, "numbers in a latent", COUNT)
    batch_size: int = setting(64, "real images a step", COUNT)
    num_steps: int = setting(24_000, "optimiser steps", COUNT)
    average_decay: float = setting(0.999, "decay of the moving average of the weights, which is what ships", DECAY)
    held_out: float = setting(
        5_000, "images of the train split kept for scores on the way, or their share (10% of one's own)", PART
    )
    evaluate_every: int = setting(1_000, "steps between scores, previews and checkpoints", COUNT)


ConfigT = TypeVar("ConfigT", bound=GeneratorConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run works with: data, device, folders, and how it is scored.

    `plan` is None for not, `classifier` where none knows these classes; `how` says how images of one's own were read.
    """

    recipe: DatasetName
    dataset: Dataset
    parts: Parts
    device: torch.device
    output: Path
    target: Destination
    classifier: Path | None
    plan: ScoringPlan | None
    likelihood: LikelihoodPlan
    how: dict[str, Any]

    @property
    def side(self) -> int:
        """The side of the pictures."""
        return int(self.parts.train.levels.shape[2])

    @property
    def channels(self) -> int:
        """The colour channels of the pictures."""
        return int(self.parts.train.levels.shape[1])


def make_generator_parser(script: str, description: str, kind: type[GeneratorConfig]) -> argparse.ArgumentParser:
    """Make the parser of `python -m training.<script>`; `kind` is the dataclass of its settings."""
    flags = make_parser(script, description, kind, data=IMAGE_DATA)
    add_image_flags(flags.parser)
    scores = flags.parser.add_argument_group("scores")
    scores.add_argument("--skip-scores", action="store_true", help="export and report without scores")
    scores.add_argument(
        "--classifier",
        type=Path,
        metavar="DIR",
        help="version folder of the classifier whose features are compared (default: the shipped one of the data set)",
    )
    return flags.parser


def prepare(
    kind: type[ConfigT], network: str, arguments: argparse.Namespace, scratch: Path | None, dry: dict[str, Any]
) -> tuple[ConfigT, Job]:
    """Resolve what the command line asks for, and seed torch for the initial weights.

    `network` ends the model's name; `dry` holds the sizes of the smallest network, for a dry run in `scratch`.

    Raises: DataError, ValueError.
    """
    # A dry run has settings of its own, whatever was given: it is to be quick.
    given = ({} if arguments.dataset else {"held_out": 0.1}) | given_settings(kind, arguments)
    given["dataset"] = arguments.dataset or "own"
    config = kind(**(given | _DRY_SETTINGS | dry if scratch else given))
    dataset, how = load_images(arguments, config.seed, _DRY_ROWS if scratch else None)
    require_side(dataset)
    name = arguments.name or f"{model_name(arguments.dataset, dataset).removesuffix('-mnist')}-{network}"
    target = destination(arguments, name, scratch)
    target.check()
    job = Job(
        recipe=config.dataset,
        dataset=dataset,
        parts=split(dataset, config.held_out, config.seed),
        device=choose_device(arguments.device),
        output=scratch / "run" if scratch else arguments.output or Path("runs") / name,
        target=target,
        classifier=None if arguments.skip_scores else find_classifier(arguments, dataset),
        plan=None if arguments.skip_scores else make_plan(dataset, is_dry=scratch is not None),
        likelihood=LikelihoodPlan(iwae_samples=2, iwae_pictures=20) if scratch else LikelihoodPlan(),
        how=how,
    )
    # Last, so that nothing above moves the initial weights.
    torch.manual_seed(config.seed)
    return config, job


def require_side(dataset: Dataset) -> None:
    """Refuse images whose sides the networks cannot halve as often as they do.

    Raises: DataError.
    """
    height, width = dataset.train_images.shape[1:3]
    step = 2 ** num_halvings(height)
    if height != width or height % step:
        near = sorted(
            {size for size in range(28, 225) if size % 2 ** num_halvings(size) == 0}, key=lambda s: abs(s - height)
        )
        raise DataError(
            f"the images are {height}x{width}; they must be square, with a side that {step} divides: --image-size "
            f"{near[0]}, for images of your own."
        )


def find_classifier(arguments: argparse.Namespace, dataset: Dataset) -> Path | None:
    """Find the classifier whose features are compared: the one that is named, else the shipped one of the data set.

    None, with a sentence, where none was taught these classes at this size.

    Raises: ValueError for one that was named and does not fit.
    """
    folder = arguments.classifier or (arguments.dataset and DEFAULT_REPOSITORY / arguments.dataset / "1")
    if folder:
        manifest = read_manifest(folder)
        shape = manifest.graphs["model"].inputs[0].row_shape if "model" in manifest.graphs else ()
        if manifest.labels == dataset.labels and shape == dataset.train_images.shape[1:]:
            return Path(folder)
        if arguments.classifier:
            raise ValueError(
                f"--classifier {folder} tells {manifest.labels} apart in images of the shape {shape}; the data has "
                f"{dataset.labels} in {dataset.train_images.shape[1:]}."
            )
    tqdm.write(
        "no classifier was taught these classes at this size, so distances of pictures and scores by label are left "
        "out; train one on the same --data by training.train_classifier, and name its version folder by --classifier"
    )
    return None


def make_plan(dataset: Dataset, *, is_dry: bool) -> ScoringPlan:
    """As many pictures are drawn as there are real ones to compare with, up to the size of the usual data sets."""
    if not is_dry:
        return ScoringPlan(
            num_samples=min(10_000, len(dataset.test_labels)),
            num_lesson=min(60_000, len(dataset.train_labels)),
            lesson_of_real=True,
        )
    lesson = ClassifierLesson(network="tiny", epochs=1, held_out=20, batch_size=20)
    return ScoringPlan(num_samples=_DRY_ROWS, num_lesson=_DRY_ROWS, lesson=lesson, lesson_of_real=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run, for its manifest and its report.

    `scores` are by the way latents were drawn, that of the shipped version first; they and `likelihood` are empty and
    None where scores were not asked for. `parameters` counts by network; `seeds` are runs of other seeds.
    """

    summary: str
    parameters: Mapping[str, int]
    scores: Mapping[str, GeneratorScores]
    likelihood: LikelihoodScores | None = None
    seeds: tuple[SeedScores, ...] = ()


def publish(
    script: str,
    trainer: Trainer,
    job: Job,
    outcome: Outcome,
    graphs: Mapping[str, nn.Module],
    labelled: frozenset[str],
    plates: Sequence[Plate],
) -> None:
    """Export the version and write the report; `labelled` names the graphs that take a label.

    Raises: ExportError.
    """
    config, dataset = trainer.config, job.dataset
    assert isinstance(config, GeneratorConfig)
    # Real pictures to compare graphs on: noise would exercise none of what the networks have learnt.
    rows = Rows(
        images=dataset.test_images[:NUM_COMPARED_ROWS],
        labels=dataset.test_labels[:NUM_COMPARED_ROWS],
        num_labels=len(dataset.labels),
        latent=config.latent,
        labelled=labelled,
    )
    card = job.target.card(make_card(script, trainer, job, outcome))
    folder = export_generator(graphs, rows, card, job.target.repository)
    counts = {"to train on": job.parts.train, "held out": job.parts.held_out, "of test": job.parts.test}
    figures = [
        *((f"parameters, {network}", f"{count:,}") for network, count in outcome.parameters.items()),
        ("pictures", ", ".join(f"{len(images):,} {what}" for what, images in counts.items())),
        ("data set", f"{dataset.description} ({dataset.name})"),
    ]
    write_generator_report(
        job.output,
        read_manifest(folder),
        trainer.progress,
        figures,
        plates,
        outcome.scores,
        outcome.likelihood,
        outcome.seeds,
    )
    tqdm.write(f"{job.target.finish(folder)}, report in {job.output / REPORT_FILE}")


def make_card(script: str, trainer: Trainer, job: Job, outcome: Outcome) -> ModelCard:
    """Describe a run; the lineage counts the parameters of what ships."""
    dataset = job.dataset
    return ModelCard(
        name=job.target.name,
        version="1",
        task="image-generation",
        description=outcome.summary,
        labels=dataset.labels,
        light_on_dark=dataset.light_on_dark,
        margin=dataset.margin,
        evaluation=tuple(evaluation_entries(dataset.name, outcome)),
        training=lineage(
            script,
            trainer.config,
            trainer.network,
            dataset_sha256=dataset.sha256(),
            seconds=trainer.progress.seconds,
            device=trainer.device,
            libraries=["scikit-learn"],
            **job.how,
        ),
    )


# The scores as the manifest lists them, each with the pictures that it counts.


def evaluation_entries(dataset: str, outcome: Outcome) -> Iterator[Evaluation]:
    """List all scores."""
    for place, (drawn, scores) in enumerate(outcome.scores.items()):
        yield from _distances(dataset, drawn, scores, calibrated=place == 0)
        yield from _of_labels(dataset, drawn, scores)
    if outcome.likelihood is not None:
        yield from _likelihoods(dataset, outcome.likelihood)


def _distances(dataset: str, drawn: str, scores: GeneratorScores, *, calibrated: bool) -> Iterator[Evaluation]:
    """The rows against the test split; calibration rows once, for they are the same for every way to draw."""
    for row in scores.rows if calibrated else (scores.generated,):
        name = drawn if row is scores.generated else row.name
        figures = {METRIC: row.frechet, "kernel distance (KID)": row.kernel}
        figures |= {"precision": row.precision, "recall": row.recall}
        for metric, value in figures.items():
            part = f"{name}, against {_REFERENCE}"
            yield Evaluation(metric=metric, value=value, dataset=dataset, split=part, count=row.count)


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
    }
    if scores.linear is not None:
        name = f"bound of PCA with {scores.linear_components} components, nats"
        figures[name] = (scores.linear.mean, scores.count)
    for metric, (value, count) in figures.items():
        yield Evaluation(metric=metric, value=value, dataset=dataset, split=_REFERENCE, count=count)
