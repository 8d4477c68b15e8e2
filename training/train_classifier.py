"""Trains an image classifier, reports on it, and exports it as a model version.

    python -m training.train_classifier --dataset fashion-mnist

Read `train` first: data, split, training, selection, one look at the test split, export, report.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
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
    open_run,
    run_command,
)
from training.data.augmentation import Augmentation, erase, mix, move
from training.data.datasets import Dataset, DatasetName, Images, Normalization, Parts, draw_rows, split
from training.data.formats import DataError
from training.export.classifier import export_classifier
from training.export.exported import read_classifier_weights
from training.export.version import Destination, ModelCard, find_version, lineage, num_parameters
from training.loop import Trainer, load_weights, read_checkpoint
from training.networks.resnet import ARCHITECTURES, GRAPH, ResNet, ServedClassifier, halvings_of, num_halvings
from training.optimizers import OptimizerName, ScheduleName, make_optimizers, rate_factor
from training.reports.classifier import write_classifier_report
from training.reports.page import REPORT_FILE
from training.scores.classification import Scores, fit_temperature, predict_logits, score
from training.settings import (
    COUNT,
    DECAY,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    Settings,
    given_settings,
    setting,
)

# Images of each part in a dry run.
_DRY_ROWS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(Settings):
    """The settings of a classifier."""

    # Which images, and with them which recipe.
    dataset: DatasetName
    # How large. Tens of thousands of small images go a long way with a million weights or fewer, and a small network is
    # served fast.
    network: Literal["tiny", "digit", "garment", "object"] = setting("garment", "member of the network family")
    dropout: float = setting(0.0, "dropout before the head", DECAY)
    # How long. Augmentation shows every image anew in each epoch, which is why dozens of them pay.
    epochs: int = setting(30, "passes over the training part", COUNT)
    # Of a network that has learnt other classes, the head is new: its first gradients are noise, and would undo what
    # the other layers know.
    frozen_epochs: int = setting(
        0, "first epochs in which the head alone learns (2 after --start-from with other classes)", NOT_NEGATIVE
    )
    # Large batches keep the processor busy and gradients smooth; beyond the gradient's noise scale, a doubled batch no
    # longer halves the number of steps that are needed (McCandlish et al. 2018, arXiv 1812.06162).
    batch_size: int = setting(512, "images a step", COUNT)
    # How a gradient becomes a step. Muon comes from races for the fastest training of small CNNs (Jordan 2024). A rate
    # belongs to its optimiser: one that suits SGD would make Adam diverge.
    optimizer: OptimizerName = setting(
        "muon", "optimiser; momentum is SGD with Nesterov momentum, muon leaves vectors and the head to AdamW"
    )
    learning_rate: float = setting(
        0.05, "peak learning rate (for muon: of the convolutions, AdamW takes a tenth)", POSITIVE
    )
    momentum: float = setting(0.8, "momentum of momentum, rmsprop and muon", DECAY)
    # Decay keeps weights small, and with normalisation behind every convolution keeps its steps effective: a kernel
    # that grows is turned by the same step less and less (van Laarhoven 2017, arXiv 1706.05350).
    weight_decay: float = setting(0.1, "weight decay of weights, not of biases and normalisation")
    # One-cycle: the rate rises, so that early, random gradients do little harm, then falls to zero, so that the weights
    # settle (Smith & Topin 2017, arXiv 1708.07120).
    schedule: ScheduleName = setting("linear", "decay after the warm-up; linear with warm-up is one-cycle")
    warmup: float = setting(0.2, "part of the training in which the learning rate rises from zero", DECAY)
    # What the network is asked for, and on which images. Each change teaches that it does not alter the class: a
    # shifted shoe is a shoe. A change that does alter it (a mirrored 3) would teach something false, so recipes differ.
    label_smoothing: float = setting(0.1, "probability spread over all classes in the target", DECAY)
    crop_padding: int = setting(2, "pixels of padding for random crops")
    reflect: bool = setting(False, "pad crops by reflection instead of black")
    flip: bool = setting(False, "mirror every image in every other epoch")
    erase_probability: float = setting(0.0, "share of images that lose a random rectangle to noise", SHARE)
    erase_max_area: float = setting(0.33, "largest erased part of an image")
    mix_probability: float = setting(0.0, "share of images that get a rectangle of another image (CutMix)", SHARE)
    rotation_degrees: float = setting(0.0, "largest random rotation either way")
    zoom: float = setting(0.0, "largest random stretch of either axis, as a part")
    # What ships is an average over the last 1 / (1 - decay) steps or so, and which average ships is decided on images
    # that are held out: choosing on the test split would make its accuracy a promise that new images break.
    average_decay: float = setting(
        0.99, "decay of the moving average of the weights, which is what ships; 0: off", DECAY
    )
    # Enough images for a standard error of a third of a per cent at 95 %: differences between epochs below that are
    # luck.
    held_out: float = setting(5000, "images of the train split kept for selection, or their share, such as 10%", PART)
    evaluate_every: int = setting(2, "epochs between scores on the held-out part (the last is always scored)", COUNT)


# The settings that suit an optimiser, for a run that names another one than its recipe does.
# SGD's step is as long as its gradient, so its rate is large; Adam's and RMSprop's is about the rate itself in every
# weight, so theirs is small. Decay that is a part of the gradient (SGD, Adam) is small, decoupled decay (AdamW, Muon),
# which the rate multiplies, large.
OPTIMIZER_DEFAULTS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.5, "weight_decay": 5e-4},
    "momentum": {"learning_rate": 0.2, "weight_decay": 5e-4, "momentum": 0.9},
    "rmsprop": {"learning_rate": 0.001, "weight_decay": 1e-5, "momentum": 0.9},
    "adam": {"learning_rate": 0.003, "weight_decay": 1e-5},
    "adamw": {"learning_rate": 0.003, "weight_decay": 0.05},
    "muon": {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.8},
}

# What ships was trained with these: measured minutes and scores are in the manifest of each version.
RECIPES: dict[str, ClassifierConfig] = {
    # Digits keep their meaning when turned and stretched a little, but not when mirrored.
    "mnist": ClassifierConfig(
        dataset="mnist",
        network="digit",
        epochs=18,
        crop_padding=2,
        rotation_degrees=12.0,
        zoom=0.12,
        erase_probability=0.25,
        erase_max_area=0.15,
        label_smoothing=0.05,
    ),
    # Garments always hang upright, and shoes point either way.
    "fashion-mnist": ClassifierConfig(
        dataset="fashion-mnist",
        network="garment",
        epochs=32,
        crop_padding=2,
        flip=True,
        erase_probability=0.5,
    ),
    # Photographs have no black border: a crop reaches into the mirrored image.
    "cifar10": ClassifierConfig(
        dataset="cifar10",
        network="object",
        epochs=34,
        crop_padding=3,
        reflect=True,
        flip=True,
        erase_probability=0.5,
        erase_max_area=0.2,
    ),
    # Nothing is known of the images: no change that might alter a class, and steps small enough for a few hundred.
    "own": ClassifierConfig(
        dataset="own",
        network="object",
        epochs=40,
        batch_size=64,
        learning_rate=0.02,
        crop_padding=4,
        reflect=True,
        erase_probability=0.25,
        erase_max_area=0.2,
        held_out=0.1,
    ),
}


def configure(given: dict[str, Any]) -> ClassifierConfig:
    """Complete the settings that were given: from the optimiser's defaults when it is one of them, then the recipe.

    Raises: ValueError when a setting is refused.
    """
    # What was typed beats what suits the optimiser, which beats the recipe.
    own = OPTIMIZER_DEFAULTS[given["optimizer"]] if "optimizer" in given else {}
    return dataclasses.replace(
        RECIPES[given["dataset"] or "own"], **{**own, **given, "dataset": given["dataset"] or "own"}
    )


class ClassifierTrainer(Trainer):
    """A classifier's step and evaluation. It never sees the test split."""

    config: ClassifierConfig

    def __init__(
        self, network: nn.Module, config: ClassifierConfig, train: Images, held_out: Images, device: torch.device
    ) -> None:
        # Channels last, [B,H,W,C] in memory, is the layout in which convolutions are fastest on CPUs and tensor cores.
        network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # A step of `batch_size` images; what does not fill one is left out of the epoch, and has its turn in another.
        self.steps_per_epoch = max(len(train) // config.batch_size, 1)
        super().__init__(
            network,
            config,
            device,
            make_optimizers(
                config.optimizer,
                network,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
            ),
            num_steps=config.epochs * self.steps_per_epoch,
            # The loop counts steps, the settings epochs.
            evaluate_every=config.evaluate_every * self.steps_per_epoch,
            average_decay=config.average_decay,
        )
        # All images stay in memory as bytes, on the device: sixty thousand of 784 pixels are 47 MB. From there a GPU
        # takes its batches, and changes them, without waiting for the CPU.
        self.train, self.held_out = train.to(device), held_out.to(device)
        # Measured on what is trained on, without the held-out images: not even their brightness may leak.
        self.normalize = Normalization.of(train.levels)
        # Settings and augmentation share their names: a new change is one field in each.
        self.augmentation = Augmentation(
            **{item.name: getattr(config, item.name) for item in dataclasses.fields(Augmentation)}
        )
        # An image is mirrored in the odd or in the even epochs, drawn once: two epochs show both sides of every image,
        # where coin tosses would show one side twice for half of them (Jordan 2024, arXiv 2404.00498, section 3.6).
        parity = torch.rand(len(train), generator=torch.Generator().manual_seed(config.seed)) < 0.5
        self.flip_parity = parity.to(device)

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Augment a batch, classify it, and take one step; returns loss and accuracy on the augmented batch."""
        self._freeze(step < self.config.frozen_epochs * self.steps_per_epoch)
        # [B] row numbers, which the step alone decides.
        rows = draw_rows(len(self.train), step, self.config.batch_size, self.config.seed).to(self.device)
        flips = self.flip_parity[rows] ^ bool(step // self.steps_per_epoch % 2)
        # uint8 [B,C,H,W] -> float in 0..1. Geometry comes before normalisation, for it fills in black, which is 0 here;
        # erasing comes after, for its noise must have the normalised pixels' mean and variance.
        images = move(self.train.levels[rows].float() / 255, flips, self.augmentation, generator)
        images = erase(self.normalize(images), self.augmentation, generator)
        images, partners, shares = mix(images, self.augmentation, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = self.train.labels[rows]
        # The matrix products may be bfloat16; the loss is computed in float32, where logits that differ in the third
        # digit still have different gradients.
        with self.autocast():
            logits = self.network(images)  # [B,K]
        loss = self.loss(logits.float(), labels, partners, shares)
        # Backward pass, clipping where it is set, and one step of each optimiser: see `Trainer.descend`.
        self.descend(loss)
        # Left on the device: reading them would wait for it, at every step.
        return {"loss": loss.detach(), "train_accuracy": (logits.argmax(1) == labels).float().mean()}

    def _freeze(self, is_frozen: bool) -> None:
        """Let the head alone learn, or everything; normalisations keep their statistics while they are frozen."""
        if self.config.frozen_epochs:
            features = self.network.get_submodule("features")
            features.requires_grad_(not is_frozen)
            features.train(not is_frozen)

    def loss(self, logits: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
        """Cross-entropy; a mixed image counts for both its labels, by their parts of its pixels.

        Label smoothing asks for 1 - s + s/K instead of 1: a network cannot gain by ever larger logits (Szegedy et al.
        2016, arXiv 1512.00567, section 7).
        """
        # Without mixing the two terms below are the same, and one is computed.
        smoothing = self.config.label_smoothing
        if not self.config.mix_probability:
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        # -log p of the image's own label, and of the one whose rectangle was pasted in.
        own = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")  # [B]
        borrowed = functional.cross_entropy(logits, labels[partners], label_smoothing=smoothing, reduction="none")
        # CutMix, arXiv 1905.04899, equation 1: the targets are mixed as the pixels are.
        return torch.lerp(own, borrowed, shares).mean()

    def rate(self, step: int) -> float:
        """The schedule that the settings name."""
        return rate_factor(self.config.schedule, (step + 1) / (self.num_steps + 1), self.config.warmup)

    def evaluate(self) -> dict[str, float]:
        """Score the averaged weights on the held-out part."""
        with self.autocast():
            # No augmentation here: the question is how well images as they come are told apart.
            logits = predict_logits(self.network, self.held_out.levels, self.normalize, self.device)
        # Both go into the history: the loss falls smoothly where the accuracy jumps by whole images.
        labels = self.held_out.labels.cpu()
        accuracy = float((logits.argmax(1) == labels).float().mean())
        loss = float(functional.cross_entropy(logits, labels))
        epoch = self.progress.step / self.steps_per_epoch
        return {"epoch": epoch, "held_out_accuracy": accuracy, "held_out_loss": loss}

    def merit(self, figures: dict[str, float]) -> float:
        """Select by accuracy, which is what is published; the loss also pays for confidence, which is fitted later."""
        return figures["held_out_accuracy"]


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    start = None if arguments.start_from is None else read_start(arguments.start_from, arguments.repository)
    given = given_settings(ClassifierConfig, arguments)
    if start is not None:
        given = {"network": start.network} | given
        # As the network saw images so far, unless something else is asked for.
        arguments.image_size = arguments.image_size or start.side
        if arguments.channels == "auto":
            arguments.channels = "grey" if start.channels == 1 else "color"
    config = configure(given)
    if scratch:
        config = dataclasses.replace(config, epochs=1, batch_size=16, held_out=0.5)
    dataset, how = load_images(arguments, config.seed, _DRY_ROWS if scratch else None)
    if len(dataset.labels) < 2:
        raise DataError(
            f"the images are of {len(dataset.labels)} class; a classifier needs at least two to tell apart."
        )
    name = arguments.name or model_name(arguments.dataset, dataset)
    output = scratch / "run" if scratch else arguments.output or Path("runs") / name
    target = destination(arguments, name, scratch)
    target.check()

    # The parts come before the network: its seed must not depend on how many random numbers the split drew.
    device = choose_device(arguments.device)
    parts = split(dataset, config.held_out, config.seed)
    if start is not None and start.has_other_head(dataset) and "frozen_epochs" not in given:
        config = dataclasses.replace(config, frozen_epochs=min(2, config.epochs - 1))
    network = make_network(config, dataset, start)
    # Everything from here on is the loop in `loop.py`, with the step and the evaluation above.
    trainer = ClassifierTrainer(network, config, parts.train, parts.held_out, device)
    open_run(trainer, output, arguments, dataset.sha256())
    tqdm.write(f"{dataset.name}: {len(parts.train):,} images, {num_parameters(network):,} parameters, {device}")
    trainer.run(output)

    # The test split is read here, once, after the weights were selected on the held-out part.
    # In float32, not in the arithmetic of training: this is what is served.
    scores = {"test": score_images(trainer, parts.test), "held-out": score_images(trainer, parts.held_out)}
    if start is not None:
        how["start_from"] = start.origin
    folder = export(trainer, scores, dataset, parts, target, how)
    manifest = read_manifest(folder)
    write_classifier_report(
        output, manifest, trainer.progress, trainer.steps_per_epoch, scores["held-out"], scores["test"], dataset
    )
    tqdm.write(
        f"held-out accuracy {scores['held-out'].accuracy:.2%}, test accuracy {scores['test'].accuracy:.2%}; "
        f"{target.finish(folder)}, report in {output / REPORT_FILE}"
    )


def make_network(config: ClassifierConfig, dataset: Dataset, start: Start | None = None) -> ResNet:
    """Make the network of a run with its initial weights; sizes are the data's.

    Raises: ValueError when the weights to start from are of another network.
    """
    _, side, _, channels = dataset.train_images.shape
    architecture = ARCHITECTURES[config.network]
    halvings = num_halvings(side) if start is None else halvings_of(start.weights, architecture)
    torch.manual_seed(config.seed)  # the initial weights
    network = ResNet(architecture, channels, len(dataset.labels), config.dropout, halvings=max(halvings, 0))
    # A second stage: other settings, or other classes, but not from scratch.
    if start is not None:
        head = network.head.state_dict(prefix="head.") if start.has_other_head(dataset) else {}
        load_weights(network, start.weights | head, start.origin)
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Weights to begin with, and what they are of; a checkpoint does not say its side (0) and its labels (none)."""

    origin: str
    weights: dict[str, Tensor]
    network: str
    side: int = 0
    labels: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The colour channels of the images that the network takes."""
        return int(self.weights["features.0.0.weight"].shape[1])

    def has_other_head(self, dataset: Dataset) -> bool:
        """Whether the last layer is for other classes than the data has, as far as is known."""
        if self.labels:
            return self.labels != dataset.labels
        return len(self.weights["head.bias"]) != len(dataset.labels)


def read_start(name: Path, repository: Path) -> Start:
    """Read what to start from: the checkpoint of a run, a version's folder, or a model of the repository by name.

    Raises: ValueError, ExportError, OSError.
    """
    folder = find_version(name, repository)
    if folder is None and not name.is_file():
        raise ValueError(
            f"--start-from is {str(name)!r}; it must be a model of {repository} or one that ships, such as cifar10, a "
            "version's folder, or a checkpoint."
        )
    if folder is None:
        config = read_checkpoint(name)["config"]
        return Start(origin=f"{str(name)!r}", weights=read_selected_weights(name), network=config.get("network", ""))
    manifest = read_manifest(folder)
    return Start(
        origin=f"{manifest.name}@{manifest.version}",
        weights=read_classifier_weights(folder),
        network=manifest.training.config["network"] if manifest.training else "",
        side=manifest.graphs[GRAPH].inputs[0].shape[1],
        labels=manifest.labels or (),
    )


def score_images(trainer: ClassifierTrainer, images: Images) -> Scores:
    """Score the selected weights in float32, as they will be served."""
    logits = predict_logits(trainer.network, images.levels, trainer.normalize, trainer.device)
    return score(logits.numpy(), images.labels.numpy())


def export(
    trainer: ClassifierTrainer,
    scores: dict[str, Scores],
    dataset: Dataset,
    parts: Parts,
    target: Destination,
    how: dict[str, Any],
) -> Path:
    """Calibrate the probabilities on the held-out part and export; returns the version's folder.

    `how` joins the settings in the lineage: how the images were read, and where the weights began.
    """
    network, config, held_out = trainer.network, trainer.config, parts.held_out
    assert isinstance(network, ResNet)
    logits = predict_logits(network, held_out.levels, trainer.normalize, trainer.device)
    # A network that was trained with smoothed labels and augmented images is less sure than it is right. One number,
    # fitted where neither training nor the final score looked, repairs the probabilities (Guo et al. 2017, arXiv
    # 1706.04599).
    temperature = fit_temperature(logits.numpy(), held_out.labels.numpy())
    # What the version says of itself: scores with what they were measured on, and how the run can be repeated.
    card = ModelCard(
        name=target.name,
        version="1",
        task="image-classification",
        # A data set that is not the official edition is named for what it is.
        description=f"A residual CNN for the {len(dataset.labels)} classes of {dataset.description}.",
        labels=dataset.labels,
        light_on_dark=dataset.light_on_dark,
        margin=dataset.margin,
        evaluation=tuple(
            Evaluation(metric="accuracy", value=found.accuracy, dataset=dataset.name, split=part, count=found.count)
            for part, found in scores.items()
        ),
        training=lineage(
            "train_classifier",
            config,
            network,
            dataset_sha256=dataset.sha256(),
            seconds=trainer.progress.seconds,
            device=trainer.device,
            **how,
        ),
    )
    normalize = trainer.normalize
    # What is exported is not the network alone but all that turns bytes into probabilities: normalisation, network,
    # temperature. The service cannot get any of it wrong.
    served = ServedClassifier(network, normalize.mean.tolist(), normalize.std.tolist(), temperature)
    return export_classifier(served, parts, target.card(card), target.repository)


def read_selected_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights that a run selected, so that another may start from them.

    Raises: ValueError when the file is not such a checkpoint.
    """
    weights: dict[str, Tensor] = read_checkpoint(checkpoint)["progress"]["best_weights"]
    if not weights:
        raise ValueError(f"{str(checkpoint)!r} holds no selected weights yet; let that run reach an evaluation.")
    return weights


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    flags = make_parser(
        "train_classifier",
        "Train an image classifier and export it. Every setting defaults to the data set's recipe.",
        ClassifierConfig,
        data=IMAGE_DATA,
        compiles=False,
        recipes=RECIPES,
    )
    add_image_flags(flags.parser)
    flags.running.add_argument(
        "--start-from",
        type=Path,
        metavar="MODEL",
        help="begin with the weights of a model of the repository, such as cifar10, of a version's folder, or of a "
        "run's checkpoint; other classes get a head of their own",
    )
    return flags.parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(train, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())
