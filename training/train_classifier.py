"""Trains an image classifier, reports on it, and exports it as a model version.

    python -m training.train_classifier --dataset fashion-mnist

It owns the order of events: data, split, training, selection, one look at the test split, export, report.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.manifest import Evaluation, Training, read_manifest
from training.checkpoints import open_run
from training.config import RECIPES, ClassifierConfig, configure
from training.data import DEFAULT_CACHE, SOURCES, Dataset, load_dataset, synthetic_dataset
from training.device import choose_device
from training.evaluate import Scores, fit_temperature, predict_logits, score
from training.export import DEFAULT_REPOSITORY, ExportError, ModelCard, export_classifier
from training.formats import DataError
from training.loop import Part, Progress, Trainer, read_selected_weights
from training.networks.resnet import ARCHITECTURES, ResNet, ServedClassifier
from training.networks.size import num_parameters
from training.options import add_flags, given_settings
from training.provenance import commit_of, describe_device, library_versions
from training.report import REPORT_FILE, Report, write_report


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train_classifier",
        description="Train an image classifier and export it. Every setting defaults to the data set's recipe.",
    )
    parser.add_argument("--dataset", required=True, choices=sorted(RECIPES), help="data set, and so the recipe")
    where = parser.add_argument_group("files")
    where.add_argument("--data", type=Path, metavar="DIR", help="local data: idx files, archives or class folders")
    where.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    where.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<dataset>)")
    where.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="export goes here")
    where.add_argument("--model-version", default="1", metavar="N", help="version to export as (default: 1)")
    how = parser.add_argument_group("running")
    how.add_argument("--resume", action="store_true", help="continue the run in --output from its last epoch")
    how.add_argument(
        "--start-from", type=Path, metavar="CHECKPOINT", help="begin with the selected weights of a finished run"
    )
    how.add_argument("--dry-run", action="store_true", help="one step on synthetic data, exported to a scratch folder")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    settings = parser.add_argument_group("settings")
    add_flags(settings, ClassifierConfig, skip=("dataset",))
    return parser.parse_args(arguments)


def split_train(dataset: Dataset, config: ClassifierConfig) -> tuple[Part, Part]:
    """Split the train images at random (seeded) into the part to train on and the part to select on.

    Raises: DataError when nothing would be left to train on.
    """
    if config.held_out >= len(dataset.train_labels):
        raise DataError(f"held_out is {config.held_out}; the train split has only {len(dataset.train_labels)} images.")
    order = torch.randperm(len(dataset.train_labels), generator=torch.Generator().manual_seed(config.seed))
    images = to_tensor(dataset.train_images)
    labels = torch.from_numpy(dataset.train_labels)
    chosen, kept = order[config.held_out :], order[: config.held_out]
    pixels = images[chosen].double() / 255
    mean, std = pixels.mean((0, 2, 3)).float(), pixels.std((0, 2, 3)).float()
    train = Part(images=images[chosen], labels=labels[chosen], mean=mean, std=std)
    return train, Part(images=images[kept], labels=labels[kept], mean=mean, std=std)


def to_tensor(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
    """Turn [B,H,W,C] into a contiguous [B,C,H,W] tensor."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def train(arguments: argparse.Namespace) -> None:
    """Run what the command line asks for.

    Raises: DataError, ExportError, ValueError.
    """
    config = configure(given_settings(ClassifierConfig, arguments))
    if arguments.dry_run:
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            config = dataclasses.replace(config, epochs=1, batch_size=16, held_out=20)
            run(config, synthetic_dataset(arguments.dataset), arguments, Path(scratch), Path(scratch))
        tqdm.write("dry run passed: one step taken, exported, compared with torch and reported; nothing was kept")
        return
    dataset = load_dataset(arguments.dataset, folder=arguments.data, cache=arguments.cache)
    output = arguments.output or Path("runs") / arguments.dataset
    folder = run(config, dataset, arguments, output, arguments.repository)
    tqdm.write(f"exported to {folder}, report in {output / REPORT_FILE}")


def run(
    config: ClassifierConfig, dataset: Dataset, arguments: argparse.Namespace, output: Path, repository: Path
) -> Path:
    """Train, select, look at the test split once, export and report; returns the folder of the exported version."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    torch.manual_seed(config.seed)
    channels = dataset.train_images.shape[3]
    network = ResNet(ARCHITECTURES[config.network], channels, len(dataset.labels), config.dropout)
    train_part, held_out = split_train(dataset, config)
    if arguments.start_from is not None:
        network.load_state_dict(read_selected_weights(arguments.start_from))
    trainer = Trainer(network, config, train_part, held_out, device)
    open_run(trainer.restore, output, resume=arguments.resume)
    tqdm.write(f"{dataset.name}: {len(train_part.labels):,} images, {num_parameters(network):,} parameters, {device}")
    progress = trainer.run(output)
    test_part = dataclasses.replace(
        held_out, images=to_tensor(dataset.test_images), labels=torch.from_numpy(dataset.test_labels)
    )
    scores = {"test": score_part(network, test_part, device), "held-out": score_part(network, held_out, device)}
    card = _card(config, dataset, progress, scores, network, device, arguments)
    logits = predict_logits(network, held_out.images, held_out.normalized, device)
    temperature = fit_temperature(logits.numpy(), held_out.labels.numpy())
    served = ServedClassifier(network, held_out.mean.tolist(), held_out.std.tolist(), temperature)
    folder = export_classifier(served, dataset.test_images[:64], card, repository)
    report = Report(
        manifest=read_manifest(folder),
        history=progress.history,
        best_epoch=progress.best_epoch,
        held_out=scores["held-out"],
        test=scores["test"],
        test_images=dataset.test_images,
        test_labels=dataset.test_labels,
    )
    write_report(output, report)
    tqdm.write(f"held-out accuracy {scores['held-out'].accuracy:.2%}, test accuracy {scores['test'].accuracy:.2%}")
    return folder


def score_part(network: ResNet, part: Part, device: torch.device) -> Scores:
    """Score the network in float32 on one part."""
    logits = predict_logits(network, part.images, part.normalized, device)
    return score(logits.numpy(), part.labels.numpy())


def _card(
    config: ClassifierConfig,
    dataset: Dataset,
    progress: Progress,
    scores: dict[str, Scores],
    network: ResNet,
    device: torch.device,
    arguments: argparse.Namespace,
) -> ModelCard:
    """Describe the run; a data set that is not the official edition is named for what it is."""
    evaluation = tuple(
        Evaluation(metric="accuracy", value=outcome.accuracy, dataset=dataset.name, split=split, count=outcome.count)
        for split, outcome in scores.items()
    )
    lineage = Training(
        script="training.train_classifier",
        config=config.to_json() | ({"start_from": str(arguments.start_from)} if arguments.start_from else {}),
        seed=config.seed,
        dataset_sha256=dataset.sha256(),
        commit=commit_of(Path(__file__).parent),
        seconds=round(progress.seconds, 1),
        device=describe_device(device),
        parameters=num_parameters(network),
        libraries=library_versions(),
    )
    return ModelCard(
        name=config.dataset,
        version=arguments.model_version,
        description=f"A residual CNN that tells the {len(dataset.labels)} classes of {dataset.description} apart.",
        labels=dataset.labels,
        light_on_dark=SOURCES[config.dataset].light_on_dark,
        margin=SOURCES[config.dataset].margin,
        evaluation=evaluation,
        training=lineage,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        train(parse_arguments(arguments))
    except (DataError, ExportError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
