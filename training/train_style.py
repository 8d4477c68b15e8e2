"""Trains one network in the manner of several paintings, scores it, exports it, and reports on it.

    python -m training.train_style --styles paintings/ --content photographs/

Read `train` first: pictures, loss, training, scores on photographs held out, export, report. The method is Johnson et
al. 2016 (arXiv 1603.08155), with a row of scales and shifts for each style (Dumoulin et al. 2017, arXiv 1610.07629).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.manifest import Evaluation, read_manifest
from training.command_line import choose_device, destination, make_parser, open_run, run_command, should_compile
from training.data.formats import DataError
from training.data.photographs import (
    Painting,
    Photographs,
    Picture,
    centre,
    made_up_paintings,
    made_up_photographs,
    random_crops,
    read_painting,
    read_paintings,
    read_photographs,
    read_picture,
    sha256_of,
    to_tensor,
)
from training.export.style import export_stylizer, read_stylizer
from training.export.version import Destination, ModelCard, find_version, lineage, num_parameters
from training.loop import CHECKPOINT_FILE, Trainer, read_checkpoint
from training.losses import PerceptualLoss
from training.networks.stylizer import Stylizer, StylizerShape, with_style
from training.networks.vgg import Vgg16, load_vgg, random_vgg
from training.reports.page import REPORT_FILE
from training.reports.pictures import PREVIEW_JPEG, write_style_grid
from training.reports.style import write_style_report
from training.scores.gatys import OPTIMIZERS, Protocol, Scorer, Scores
from training.scores.measured import SCORES_FILE
from training.settings import COUNT, DECAY, NOT_NEGATIVE, POSITIVE, SHARE, Rule, Settings, given_settings, setting

# The names of a run's styles in the order of their rows, which no checkpoint holds.
STYLES_FILE = "styles.json"
NUM_CALIBRATION = 32
NUM_PREVIEWED = 4
# The balance follows the training for this part of it, then rests, so that the end minimises one fixed loss.
_BALANCED_SHARE = 0.5
# A new style learns its rows only, which takes this part of the steps of the first run.
_ADDED_SHARE = 0.25
_DRY_SETTINGS = {"num_steps": 2, "evaluate_every": 1, "batch_size": 2, "held_out": 4}
_DRY_SIDES = {"painting_pixels": 48, "crop_pixels": 32, "small_crop_pixels": 16}
# Widths are multiples of 16, the block in which CPUs compute convolutions; sides are, so that halving them twice here
# and three times in VGG16 leaves whole pixels.
_PIXELS = Rule(lambda value: value >= 16 and value % 16 == 0, "a positive multiple of 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleConfig(Settings):
    """The settings of a stylizer."""

    # How large. The network runs once for every photograph that is ever painted, and VGG16 only in training: a thin
    # network serves, a large one judges.
    width: int = setting(
        16, "channels at full resolution; half resolution has twice, a quarter three times as many", _PIXELS
    )
    num_blocks: int = setting(5, "residual blocks", COUNT)
    # What a good painting is. The terms are calibrated (see `PerceptualLoss`), so that one weight suits all styles;
    # what is left to choose is how much of the photograph may be given up for the manner.
    content_layer: Literal["conv2_2", "conv3_3"] = setting("conv3_3", "layer of VGG16 that keeps the content")
    style_weight: float = setting(5.0, "weight of the style term against the content term, before balancing", POSITIVE)
    variation_weight: float = setting(
        0.0, "weight of total variation; mirrored borders and resizing do without", NOT_NEGATIVE
    )
    balance_rate: float = setting(
        0.01, "how fast a style's weight follows its lag behind the others, a step; 0: never", NOT_NEGATIVE
    )
    # A stroke is as large as the painting shows it at this size; crops are of photographs, whose size decides how many
    # strokes a scene takes.
    painting_pixels: int = setting(384, "shorter side of a painting, so the size of its strokes", _PIXELS)
    crop_pixels: int = setting(256, "side of the crops that training ends with", _PIXELS)
    small_crop_pixels: int = setting(128, "side of the crops that training begins with", _PIXELS)
    # A crop of half the side costs a quarter. The last tenth of the run sees large ones, so that the network learns
    # what a scene looks like and not only what strokes do.
    small_share: float = setting(0.9, "part of the steps that use small crops", SHARE)
    # Six photographs and six styles: each style has one row of a step.
    batch_size: int = setting(6, "photographs a step; styles take turns over them", COUNT)
    num_steps: int = setting(7_000, "optimiser steps", COUNT)
    # A style owns a few hundred numbers of a quarter of a million. They get a higher rate, for each is seen in the rows
    # of its own style only.
    learning_rate: float = setting(0.002, "peak learning rate of the convolutions (Adam)", POSITIVE)
    style_rate: float = setting(0.01, "peak learning rate of the styles' scales and shifts (Adam)", POSITIVE)
    # Rates rise over a hundredth of the run, then follow a cosine to zero; the gradient is clipped, for a style far
    # from all others can have one many times as long.
    warmup: float = setting(0.01, "part of the run with a rising learning rate", SHARE)
    gradient_clip: float = setting(10.0, "largest norm of the whole gradient", POSITIVE)
    # What ships, and by what it is watched.
    average_decay: float = setting(0.999, "decay of the moving average of the weights, which is what ships", DECAY)
    held_out: int = setting(24, "photographs kept for scores, never trained on", COUNT)
    evaluate_every: int = setting(250, "steps between scores, previews and checkpoints", COUNT)


# The trainer: what a step is, and what is watched on the way.
class StyleTrainer(Trainer):
    """A stylizer's step and evaluation."""

    config: StyleConfig
    network: Stylizer

    def __init__(
        self,
        network: Stylizer,
        loss: PerceptualLoss,
        config: StyleConfig,
        photographs: Photographs,
        *,
        device: torch.device,
        preview: Callable[[], None],
        compiles: bool,
        first_style: int = 0,
    ) -> None:
        """Train styles from `first_style` on; the ones before it, and with them all convolutions, stay as they are."""
        # [B,H,W,C] in memory, the layout in which convolutions are fastest.
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The loss holds VGG16 and the Gram matrices of the paintings, which are computed once: paintings never change.
        self.loss = loss.to(device)
        # Before the optimiser is made, which takes what learns.
        if first_style:
            freeze_styles(network, first_style)
        super().__init__(
            network,
            config,
            device,
            [make_style_optimizer(network, config)],
            num_steps=config.num_steps,
            evaluate_every=config.evaluate_every,
            average_decay=config.average_decay,
            gradient_clip=config.gradient_clip,
            beside={"balance": self.loss.balance},
        )
        self.photographs = photographs
        # The middle squares, cut once: evaluations differ by the network alone.
        self.scored = torch.stack([centre(picture, config.crop_pixels) for picture in photographs.held_out])
        self.preview = preview
        self.first_style = first_style
        # Painting and judging are compiled as one function: most of the time goes into VGG16 and its gradient.
        self.terms = torch.compile(self._plain_terms, dynamic=False) if compiles else self._plain_terms

    def _plain_terms(self, photographs: Tensor, weights: Tensor, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # [B,3,H,W] photographs and [B,S] weights -> paintings [B,3,H,W] -> three terms [B] each.
        loss = self.loss(self.network(photographs, weights), photographs, styles)
        return loss.content, loss.style, loss.total

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Paint a batch of crops, each in a style of its own, and take one step down the perceptual loss."""
        # Everything random in a step, crops and their order, comes from `generator`.
        config = self.config
        # Most of the run sees small crops: strokes are small, and a quarter of the pixels is a quarter of the work.
        small = step < config.num_steps * config.small_share
        side = config.small_crop_pixels if small else config.crop_pixels
        # Photographs stay on the CPU as bytes; a batch of crops [B,3,side,side] is all that goes to the device.
        # Crops are cut on the CPU, where the photographs are, by numbers that are drawn there.
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        crops = random_crops(self.photographs.train, config.batch_size, side, on_cpu)
        photographs = crops.to(self.device, memory_format=torch.channels_last)
        styles = self.styles_of(step)
        # One pass paints all rows, each with its own row of scales and shifts: to the kernels, a batch of styles is a
        # batch.
        with self.autocast():
            _, style, total = self.terms(photographs, self._one_hot(styles), styles)
        # Through the loss, through VGG16, to the painting, to the kernels and to the rows of the styles of this batch.
        self.descend(total.mean())
        if not self.first_style and step < config.num_steps * _BALANCED_SHARE:
            self.balance(styles, style.detach().float())
        return {"train_loss": total.detach().mean()}

    def styles_of(self, step: int) -> Tensor:
        """The styles [B] of a batch: they take turns, so that each is trained as often as any other."""
        # [B] numbers counted on from step to step, taken modulo the number of styles.
        places = torch.arange(self.config.batch_size) + step * self.config.batch_size
        return (places % self._num_trained + self.first_style).to(self.device)

    def _one_hot(self, styles: Tensor) -> Tensor:
        return torch.eye(self.network.shape.num_styles, device=self.device)[styles]  # [B,S]

    def balance(self, styles: Tensor, terms: Tensor) -> None:
        """Let each style's weight follow the root of its term over the mean of all: who lags behind counts for more.

        The styles share their kernels, and those that are easy to paint would claim them. The root keeps a style that
        cannot be painted well from claiming everything.
        """
        # Followed slowly, by `balance_rate`: a single batch says little about how hard a style is.
        lag = (terms / terms.mean()).sqrt()  # [B]
        self.loss.balance.index_add_(0, styles, self.config.balance_rate * (lag - self.loss.balance[styles]))

    def evaluate(self) -> dict[str, float]:
        """Score the averaged weights on the held-out photographs, a style each in turn, and draw the preview."""
        # Three numbers a photograph, [3]; their means over the held-out part go into the history.
        rows = []
        for index, photograph in enumerate(self.scored):
            # One by one, as they will be served.
            styles = torch.tensor([self.first_style + index % self._num_trained], device=self.device)
            with self.autocast():
                painted = self.network(photograph[None].to(self.device), self._one_hot(styles))
                loss = self.loss(painted, photograph[None].to(self.device), styles)
            rows.append(torch.stack([loss.content, loss.style, loss.total]).flatten().float().cpu())
        self.preview()
        # [n,3] -> [3].
        content, style, total = torch.stack(rows).mean(0).tolist()
        return {"content": content, "style": style, "held_out_loss": total}

    @property
    def _num_trained(self) -> int:
        return self.network.shape.num_styles - self.first_style


def make_style_optimizer(network: Stylizer, config: StyleConfig) -> torch.optim.Adam:
    """Make the optimiser: the few numbers that are a style's own have further to go than the shared kernels."""
    # Told apart by identity: tensors have no useful equality.
    tables = [network.scale, network.shift]
    # The kernels are shared by all styles and get a gradient from every row; when a style is added, they are frozen.
    kernels = [parameter for parameter in network.parameters() if all(parameter is not table for table in tables)]
    return torch.optim.Adam(
        [
            {"params": [kernel for kernel in kernels if kernel.requires_grad], "lr": config.learning_rate},
            {"params": tables, "lr": config.style_rate},
        ]
    )


def freeze_styles(network: Stylizer, first: int) -> None:
    """Let only the rows of styles from `first` on learn: Adam leaves a number whose gradient is zero where it is."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    # The tables are one parameter each, of which rows cannot be frozen; a hook zeroes the gradients of the rows that
    # are done. Adam, without weight decay, then leaves them bit for bit.
    rows = torch.arange(network.shape.num_styles)[:, None] >= first  # [S,1]
    for table in (network.scale, network.shift):
        table.requires_grad_(True)
        table.register_hook(lambda gradient: gradient * rows.to(gradient.device))  # type: ignore[no-untyped-call]


# What a run starts from: new weights, or those of a finished run with one style more.


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network before its first step, and its styles; those before `first_style` are done.

    `balance` [first_style] are the weights that the styles which are done were trained with; `extended` is the version
    that they were read from, whose graphs the export goes on with.
    """

    config: StyleConfig
    paintings: list[Painting]
    network: Stylizer
    first_style: int = 0
    balance: Tensor | None = None
    based_on: str | None = None
    extended: Path | None = None


def start_afresh(config: StyleConfig, paintings: list[Painting]) -> Start:
    """Start from random weights."""
    # The initial weights.
    torch.manual_seed(config.seed)
    return Start(config=config, paintings=paintings, network=Stylizer(_shape(config, len(paintings))))


def start_from_version(folder: Path, file: Path, given: dict[str, Any]) -> Start:
    """Start from an exported version, with a row more for the painting in `file`.

    The paintings of its styles are not needed, for they learn nothing; their thumbnails stand in for them.

    Raises: DataError, ExportError, ValueError.
    """
    network, manifest = read_stylizer(folder), read_manifest(folder)
    assert manifest.training is not None and manifest.stylization is not None  # noqa: PT018 (it was read as a stylizer)
    known = {item.name for item in dataclasses.fields(StyleConfig)}
    config = _changed(
        StyleConfig(**{name: value for name, value in manifest.training.config.items() if name in known}), given
    )
    added = read_painting(file, config.painting_pixels)
    styles = manifest.stylization.styles
    if added.name in (style.name for style in styles):
        raise ValueError(f"{folder} has a style {added.name!r} already; rename the new painting.")
    paintings = [Painting(each.name, np.asarray(read_picture(folder / each.thumbnail))) for each in styles]
    return Start(
        config=config,
        paintings=[*paintings, added],
        network=with_style(network),
        first_style=len(paintings),
        based_on=f"{manifest.name}@{manifest.version}",
        extended=folder,
    )


def start_with_added_style(folder: Path, styles: Path, file: Path, given: dict[str, Any]) -> Start:
    """Start from the averaged weights of the run in `folder`, with a row more for the painting in `file`.

    `styles` holds the paintings of that run; `given` are the settings to change.

    Raises: DataError, ValueError.
    """
    if not (folder / CHECKPOINT_FILE).is_file():
        raise DataError(f"{folder / CHECKPOINT_FILE} is missing; a style can only be added to a run that was trained.")
    # From the averaged weights, which are those that shipped.
    state = read_checkpoint(folder / CHECKPOINT_FILE)
    # The settings of the first run hold, or the new style would be trained to another measure.
    config = _changed(StyleConfig(**state["config"]), given)
    added = read_painting(file, config.painting_pixels)
    balance: Tensor = state["beside"]["balance"]
    paintings = _paintings_of(folder, styles, config.painting_pixels, added.name, len(balance))
    # First the network as it was, then a row more.
    network = Stylizer(_shape(config, len(paintings)))
    network.load_state_dict(state["average"]["state"])
    return Start(
        config=config,
        paintings=[*paintings, added],
        network=with_style(network),
        first_style=len(paintings),
        balance=balance,
        based_on=str(folder),
    )


def _changed(base: StyleConfig, given: dict[str, Any]) -> StyleConfig:
    config = dataclasses.replace(base, **({"num_steps": max(round(base.num_steps * _ADDED_SHARE), 1)} | given))
    for name in ("width", "num_blocks"):
        if getattr(config, name) != getattr(base, name):
            raise ValueError(f"{name} is {getattr(config, name)}; the run to add a style to has {getattr(base, name)}.")
    return config


def _shape(config: StyleConfig, num_styles: int) -> StylizerShape:
    width = config.width
    return StylizerShape(num_styles=num_styles, widths=(width, 2 * width, 3 * width), num_blocks=config.num_blocks)


def _paintings_of(folder: Path, styles: Path, pixels: int, added: str, num_styles: int) -> list[Painting]:
    """Read the paintings of a run in its order; the new one may lie in the same folder."""
    found = {painting.name: painting for painting in read_paintings(styles, pixels)}
    # The order of the rows is that of the run, not that of the files: a new file may come anywhere in the alphabet.
    names = _read_style_names(folder) or [name for name in found if name != added]
    if added in names:
        raise ValueError(f"the run in {folder} has a style {added!r} already; rename the new painting.")
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{str(styles)!r} lacks the paintings {missing}, which the run in {folder} was trained on.")
    if len(names) != num_styles:
        raise DataError(f"{str(styles)!r} holds {len(names)} paintings; the run in {folder} has {num_styles} styles.")
    return [found[name] for name in names]


def check_style_names(folder: Path, paintings: list[Painting]) -> None:
    """Compare the styles of a run in `folder` that is about to go on with the paintings there are now.

    Raises: ValueError when they differ: a row of the network would go on with another painting.
    """
    names = [painting.name for painting in paintings]
    known = _read_style_names(folder)
    if known is not None and known != names:
        raise ValueError(f"the run in {folder} has the styles {known}, not {names}; use the same paintings.")


def _read_style_names(folder: Path) -> list[str] | None:
    file = folder / STYLES_FILE
    return [str(name) for name in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else None


# The whole run.


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run works with besides its start: photographs, their name, the network that sees, and the folders."""

    photographs: Photographs
    dataset: str
    vgg: Vgg16
    output: Path
    target: Destination

    def sha256(self, start: Start) -> str:
        """Hash photographs and paintings as they are used, resized."""
        paintings = sha256_of(painting.picture for painting in start.paintings)
        return hashlib.sha256(f"{self.photographs.sha256} {paintings}".encode()).hexdigest()


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder; or only score a run.

    Raises: DataError, ExportError, ValueError.
    """
    start, job = prepare_dry_run(arguments, scratch) if scratch else prepare(arguments)
    # Everything from here on is the loop in `loop.py`, with the step and the evaluation above.
    trainer = make_trainer(start, job, choose_device(arguments.device), arguments)
    check_style_names(job.output, start.paintings)
    arguments.resume = arguments.resume or arguments.score_only
    open_run(trainer, job.output, arguments, job.sha256(start))
    names = [painting.name for painting in start.paintings]
    (job.output / STYLES_FILE).write_text(json.dumps(names) + "\n", encoding="utf-8")
    # One line that says what is about to be trained, and on what.
    tqdm.write(
        f"{len(names)} styles, {len(job.photographs.train)} photographs to train on, "
        f"{num_parameters(start.network):,} parameters, {trainer.device}"
    )
    if arguments.score_only:
        if trainer.average is None or not trainer.progress.step:
            raise ValueError(f"{job.output} holds no checkpoint to score.")
        start.network.load_state_dict(trainer.average.state)
        score(trainer, start, job, arguments)
        return
    trainer.run(job.output)
    scores = None if arguments.skip_scores else score(trainer, start, job, arguments)
    publish(trainer, start, job, scores)


def prepare(arguments: argparse.Namespace) -> tuple[Start, Job]:
    """Read the settings, the paintings, the weights and the photographs that the command line asks for."""
    # A style more brings its own start; otherwise all begins from noise.
    given = given_settings(StyleConfig, arguments)
    if arguments.add_style is not None:
        start = _start_with(arguments, given)
    else:
        config = StyleConfig(**given)
        start = start_afresh(config, read_paintings(arguments.styles, config.painting_pixels))
    job = Job(
        photographs=read_photographs(arguments.content, start.config.held_out, start.config.seed),
        dataset=arguments.content.resolve().name,
        vgg=load_vgg(arguments.vgg, arguments.cache),
        output=arguments.output or Path("runs") / arguments.name,
        target=destination(arguments, arguments.name),
    )
    return start, job


def _start_with(arguments: argparse.Namespace, given: dict[str, Any]) -> Start:
    """Start with a style more, from a version or from a run."""
    version = find_version(arguments.start_from, arguments.repository)
    if version is not None:
        return start_from_version(version, arguments.add_style, given)
    if arguments.styles is None:
        raise DataError(
            f"{arguments.start_from} is no version and no model of {arguments.repository}; to add a style to a run, "
            "its paintings are needed: name their folder by --styles."
        )
    return start_with_added_style(arguments.start_from, arguments.styles, arguments.add_style, given)


def prepare_dry_run(arguments: argparse.Namespace, scratch: Path) -> tuple[Start, Job]:
    """Random features instead, few and small of everything, and made-up pictures where none are given."""
    given = given_settings(StyleConfig, arguments) | _DRY_SETTINGS | _DRY_SIDES
    if arguments.add_style is not None:
        start = _start_with(arguments, given)
    else:
        pixels = int(given["painting_pixels"])
        paintings = read_paintings(arguments.styles, pixels) if arguments.styles else made_up_paintings()
        start = start_afresh(StyleConfig(**given), paintings)
    arguments.score_steps = 2
    held_out, content = start.config.held_out, arguments.content
    job = Job(
        photographs=read_photographs(content, held_out, 0).few() if content else made_up_photographs(held_out),
        dataset="made-up",
        vgg=random_vgg(),
        output=scratch / "run",
        target=destination(arguments, arguments.name, scratch),
    )
    return start, job


def make_trainer(start: Start, job: Job, device: torch.device, arguments: argparse.Namespace) -> StyleTrainer:
    """Put the loss and the trainer together."""
    config, photographs = start.config, job.photographs
    loss = PerceptualLoss(
        job.vgg,
        [to_tensor(painting.picture) for painting in start.paintings],
        calibration(photographs, config),
        content_layer=config.content_layer,
        style_weight=config.style_weight,
        variation_weight=config.variation_weight,
    )
    # The styles that are done keep the weights they were trained with, so that their scores still mean the same.
    if start.balance is not None:
        loss.balance[: start.first_style] = start.balance
    # The preview is drawn by whoever knows the folder: the trainer knows none.
    return StyleTrainer(
        start.network,
        loss,
        config,
        photographs,
        device=device,
        preview=lambda: draw_preview(start, job),
        compiles=should_compile(arguments.compile, start.network, device, config.num_steps),
        first_style=start.first_style,
    )


def calibration(photographs: Photographs, config: StyleConfig) -> Tensor:
    """Training photographs [B,3,H,W] that say what the loss of an untouched one is."""
    return _centres(photographs.train[:NUM_CALIBRATION], config.crop_pixels)


def draw_preview(start: Start, job: Job) -> None:
    """Draw the grid of held-out photographs and styles into the run folder."""
    rows = _centres(job.photographs.held_out[:NUM_PREVIEWED], start.config.crop_pixels)
    write_style_grid(job.output / PREVIEW_JPEG, start.network, rows, start.paintings)


def _centres(pictures: Sequence[Picture], side: int) -> Tensor:
    return torch.stack([centre(picture, side) for picture in pictures])


def score(trainer: StyleTrainer, start: Start, job: Job, arguments: argparse.Namespace) -> Scores:
    """Measure Gatys@k of the trained styles with the averaged weights; what was measured before is read back."""
    num_styles = len(start.paintings) - start.first_style
    # Held-out photographs are shared out among the styles.
    shared = max(len(job.photographs.held_out) // num_styles, 1)
    scorer = Scorer(
        start.network,
        trainer.loss,
        [painting.name for painting in start.paintings],
        # The protocol is a part of the scores: it is written beside them and decides what is read back.
        Protocol(photographs_per_style=arguments.score_photographs or shared, max_steps=arguments.score_steps),
        job.output / SCORES_FILE,
        first_style=start.first_style,
    )
    scores = scorer.score(trainer.scored, calibration(job.photographs, start.config))
    means = ", ".join(f"{scores.mean_steps(name):.1f} ({name})" for name in OPTIMIZERS)
    tqdm.write(f"Gatys@k, mean of the styles: {means}; in {job.output / SCORES_FILE}")
    return scores


def publish(trainer: StyleTrainer, start: Start, job: Job, scores: Scores | None) -> None:
    """Export the version and write the report."""
    # Once more, with the weights that ship.
    draw_preview(start, job)
    names = [painting.name for painting in start.paintings]
    listed = ", ".join(names).replace("_", " ")
    added: dict[str, Any] = (
        {} if start.based_on is None else {"based_on": start.based_on, "first_style": start.first_style}
    )
    card = ModelCard(
        name=job.target.name,
        version="1",
        task="style-transfer",
        description=f"Paints photographs in {len(names)} styles and their blends: {listed}.",
        evaluation=evaluation_entries(job.dataset, scores) if scores else (),
        training=lineage(
            "train_style",
            start.config,
            start.network,
            dataset_sha256=job.sha256(start),
            seconds=trainer.progress.seconds,
            device=trainer.device,
            styles=names,
            **added,
        ),
    )
    card = job.target.card(card)
    pictures = job.photographs.held_out
    folder = export_stylizer(
        start.network, start.paintings, pictures, card, job.target.repository, extended=start.extended
    )
    write_style_report(job.output, read_manifest(folder), trainer.progress, scores, job.photographs)
    tqdm.write(f"{job.target.finish(folder)}, report in {job.output / REPORT_FILE}")


def evaluation_entries(dataset: str, scores: Scores) -> tuple[Evaluation, ...]:
    """List Gatys@k by optimiser: the mean of the styles, then each style; `count` is photographs."""
    entries = []
    for optimizer in OPTIMIZERS:
        found = [("held-out", scores.mean_steps(optimizer), len(scores.pairs))]
        found += [
            (f"held-out, {style}", scores.mean_steps(optimizer, style), len(scores.of(style)))
            for style in scores.styles()
        ]
        entries += [
            Evaluation(metric=f"gatys_k_{optimizer}", value=value, dataset=dataset, split=split, count=count)
            for split, value, count in found
        ]
    return tuple(entries)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    flags = make_parser(
        "train_style",
        "Train a style-transfer network on paintings and photographs, score it, and export it.",
        StyleConfig,
    )
    files, running = flags.files, flags.running
    flags.parser.set_defaults(name="painter")
    files.add_argument("--styles", type=Path, metavar="DIR", help="paintings; the files' names are the styles'")
    files.add_argument("--content", type=Path, metavar="DIR", help="photographs")
    files.add_argument("--vgg", type=Path, metavar="FILE", help="VGG16's weights (default: torchvision's, downloaded)")
    running.add_argument(
        "--add-style", type=Path, metavar="FILE", help="train one painting more, and nothing else; see --from"
    )
    running.add_argument(
        "--from",
        type=Path,
        metavar="DIR",
        dest="start_from",
        help="what to add the style to: a model such as painter, a version's folder, or a run's with its --styles; its "
        "settings hold, with a quarter of its steps, unless others are given",
    )
    _add_score_flags(flags.parser)
    parsed = flags.parser.parse_args(arguments)
    has_styles = parsed.styles is not None or parsed.add_style is not None
    if not parsed.dry_run and (not has_styles or parsed.content is None):
        flags.parser.error("--styles (or --add-style) and --content are required, except for a --dry-run.")
    if (parsed.add_style is None) != (parsed.start_from is None):
        flags.parser.error("--add-style and --from go together: a painting, and the run that it is added to.")
    if parsed.add_style is not None and parsed.output is None and not parsed.dry_run:
        flags.parser.error("--add-style needs an --output of its own.")
    return parsed


def _add_score_flags(parser: argparse.ArgumentParser) -> None:
    scores = parser.add_argument_group("scores")
    which = scores.add_mutually_exclusive_group()
    which.add_argument("--skip-scores", action="store_true", help="export and report without measuring Gatys@k")
    which.add_argument(
        "--score-only",
        action="store_true",
        help=f"measure Gatys@k of the run in --output, into {SCORES_FILE}, and stop",
    )
    scores.add_argument(
        "--score-photographs", type=int, metavar="N", help="held-out photographs a style (default: they share them)"
    )
    scores.add_argument(
        "--score-steps", type=int, metavar="N", default=300, help="longest optimisation (default: 300); k is cut there"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(train, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())
