"""Trains a class-conditional generative adversarial network on pictures, scores it, exports it, and reports on it.

    python -m training.train_gan --dataset fashion-mnist

Read `train` first: data, training, scores against test, export, report with the runs of other seeds. The game is
Goodfellow et al. 2014, arXiv 1406.2661, with the hinge loss of Lim & Ye 2017, arXiv 1705.02894.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.command_line import open_run, run_command, should_compile
from training.data.augmentation import diff_augment
from training.data.datasets import Images, Parts, draw_rows
from training.export.generators import DECODER, gan_graphs
from training.export.version import num_parameters
from training.generators import GeneratorConfig, Job, Outcome, make_generator_parser, prepare, publish
from training.loop import Trainer
from training.losses import to_levels, to_signed
from training.networks.gan import Discriminator, GanShape, Generator
from training.reports.generators import Plate
from training.reports.pictures import PREVIEW_FILE, SAMPLES_FILE, write_grid, write_samples
from training.scores.generators import METRIC, GeneratorScores, draw_from_gan, identity_of, score_generator
from training.scores.measured import SCORES_FILE
from training.settings import COUNT, DECAY, POSITIVE, Rule, setting
from training.studies.siblings import SECTION, SeedScores, read_siblings

DRAWN = "drawn by label"
_PREVIEWED = 8
_SCORED_ROWS = 1000
# Batches and rows that fresh normalisation statistics are taken over.
_STATISTICS_BATCHES, _STATISTICS_ROWS = 20, 250
_DRY_NETWORK = {"generator_width": 2, "discriminator_width": 2}
_PLATES: tuple[Plate, ...] = (("Samples", SAMPLES_FILE, "A row for each label, not picked."),)
_HALF = Rule(lambda value: 0 <= value <= 0.5, "from 0 to 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class GanConfig(GeneratorConfig):
    """The settings of a GAN."""

    # Neither network may win. A discriminator that is far ahead tells the generator nothing, and one that falls behind
    # tells it anything; the widths and rates below are such that the loss of neither runs away.
    generator_width: int = setting(
        32, "generator's channels at full resolution; a quarter has four times as many", COUNT
    )
    discriminator_width: int = setting(32, "discriminator's channels at half resolution divided by two", COUNT)
    generator_rate: float = setting(0.0002, "learning rate of the generator (Adam)", POSITIVE)
    discriminator_rate: float = setting(0.0004, "learning rate of the discriminator (Adam)", POSITIVE)
    # See `GanTrainer`: no momentum, and rates that are held and then fall.
    momentum: float = setting(0.0, "first moment's decay of both optimisers", DECAY)
    decay_from: float = setting(0.5, "part of the run after which both rates fall linearly to zero", DECAY)
    # Sixty thousand pictures are few to a discriminator, which could learn them by heart: see `diff_augment`.
    translation: float = setting(0.125, "DiffAugment: largest shift, as a part of a side; 0: off", _HALF)
    cutout: float = setting(0.4, "DiffAugment: side of the square that is blanked, as a part of a side; 0: off", _HALF)


# The trainer: two networks in a game, of which one is kept.
class GanTrainer(Trainer):
    """A GAN's step, which has two phases, and evaluation; `network` is the generator, which alone ships."""

    config: GanConfig
    network: Generator

    def __init__(
        self,
        shape: GanShape,
        config: GanConfig,
        parts: Parts,
        device: torch.device,
        preview: Callable[[Generator], None],
        *,
        compiles: bool,
    ) -> None:
        # Both in channels-last layout, in which convolutions are fastest.
        generator = Generator(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = Discriminator(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # No momentum: the loss that each network sees changes with every step of the other, and yesterday's direction
        # is no guide. The discriminator learns twice as fast, so that it stays ahead (two time scales: Heusel et al.
        # 2017, arXiv 1706.08500).
        betas = (config.momentum, 0.999)
        # Two optimisers, for two networks that want opposite things; both rates follow one schedule.
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), config.generator_rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.discriminator_rate, betas
        )
        super().__init__(
            generator,
            config,
            device,
            [self.generator_optimizer, self.discriminator_optimizer],
            num_steps=config.num_steps,
            evaluate_every=config.evaluate_every,
            average_decay=config.average_decay,
            # It does not ship, but without it a resumed run would start a new game.
            beside={"discriminator": self.discriminator},
        )
        self.compiled = torch.compile(generator, dynamic=False) if compiles else generator
        self.parts = parts
        self.train = parts.train.to(device)
        self.preview = preview

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Take a step of the discriminator, then one of the generator against the new discriminator."""
        rows = draw_rows(len(self.train), step, self.config.batch_size, self.config.seed)
        batch = self.train.take(rows.to(self.device))
        # One step each: the discriminator's higher rate does what several steps for one of the generator would do, at
        # less cost.
        # First the judge, then the forger: the generator answers the newest judgement.
        losses = self._train_discriminator(batch, generator)
        return losses | self._train_generator(len(batch), generator)

    def rate(self, step: int) -> float:
        """Hold both rates, then let them fall to zero: at a constant rate, the two would circle each other for ever."""
        # 1 until `decay_from` of the run, then a line to 0.
        start = self.config.decay_from * self.num_steps
        return min((self.num_steps - step) / max(self.num_steps - start, 1), 1.0)

    def _train_discriminator(self, batch: Images, randomness: torch.Generator) -> dict[str, Tensor | float]:
        real = to_signed(batch.levels)  # uint8 [B,C,H,W] -> -1..1
        labels = batch.labels
        with torch.no_grad():  # the generator is not what learns here
            # The same labels as the real pictures have: else the discriminator could tell them by the mix of labels
            # alone.
            drawn = self._draw(labels, randomness)
        # One pass over both [2B,C,H,W], so that the power iteration of the spectral norm is taken once a step.
        pictures = self._augmented(torch.cat([real, drawn]), randomness)
        with self.autocast():
            realness = self.discriminator(pictures, torch.cat([labels, labels])).float()  # [2B]
        # [B] each: the first half of the batch was real.
        of_real, of_drawn = realness.chunk(2)
        # The hinge: a picture on the right side of its margin costs nothing, so the discriminator spends its capacity
        # on those that it still confuses (Lim & Ye 2017; Miyato et al. 2018, arXiv 1802.05957, equation 16).
        loss = (1 - of_real).relu().mean() + (1 + of_drawn).relu().mean()
        # Of the two networks, this one alone moves.
        self.descend(loss, self.discriminator, [self.discriminator_optimizer])
        return {
            "discriminator_loss": loss.detach(),
            "realness_of_real": of_real.detach().mean(),
            "realness_of_drawn": of_drawn.detach().mean(),
        }

    def _train_generator(self, num_rows: int, randomness: torch.Generator) -> dict[str, Tensor | float]:
        num_labels = self.network.shape.num_labels
        # Labels are drawn evenly, not taken from the batch: the generator is to draw rare labels as well as common
        # ones.
        labels = torch.randint(0, num_labels, (num_rows,), generator=randomness, device=self.device)
        # Gradients pass through the discriminator to the pictures; none are needed for its own weights.
        self.discriminator.requires_grad_(False)
        # New latents and labels, not those that the discriminator has just learnt to reject.
        pictures = self._augmented(self._draw(labels, randomness), randomness)
        with self.autocast():
            realness = self.discriminator(pictures, labels).float()  # [B]
        # No hinge here: the generator is to seem ever more real (Miyato et al. 2018, equation 17).
        loss = -realness.mean()
        self.descend(loss, self.network, [self.generator_optimizer])
        # Back on for the next step.
        self.discriminator.requires_grad_(True)
        return {"generator_loss": loss.detach()}

    def _draw(self, labels: Tensor, randomness: torch.Generator) -> Tensor:
        latents = torch.randn(len(labels), self.config.latent, generator=randomness, device=self.device)  # [B,Z]
        with self.autocast():
            pictures: Tensor = self.compiled(latents, labels)  # [B,C,H,W] in -1..1
        return pictures.float()

    def _augmented(self, pictures: Tensor, randomness: torch.Generator) -> Tensor:
        # Shifts and blanked squares, which gradients pass through.
        changed = diff_augment(pictures, self.config.translation, self.config.cutout, randomness)
        return changed.contiguous(memory_format=torch.channels_last)

    def settle(self) -> None:
        """Compute the normalisation statistics of averaged weights anew.

        The average of statistics is that of many generators' features, and belongs to none of them (Yazici et al. 2019,
        arXiv 1806.04498).
        """
        renew_statistics(self.network, self.config, self.device)

    def evaluate(self) -> dict[str, float]:
        """Judge held-out pictures by the discriminator; draw the preview.

        Where it finds real pictures that it was trained on more real than those that it never saw, it over-fits.
        """
        # `network` holds the averaged generator here, with fresh statistics.
        self.preview(self.network)
        held_out = self.parts.held_out.take(torch.arange(min(len(self.parts.held_out), _SCORED_ROWS)))
        with self.autocast():
            pictures = to_signed(held_out.levels).to(self.device, memory_format=torch.channels_last)
            realness = self.discriminator(pictures, held_out.labels.to(self.device)).float()
        return {"realness_of_held_out": float(realness.mean())}


@torch.no_grad()
def renew_statistics(generator: Generator, config: GanConfig, device: torch.device) -> None:
    """Set the statistics of all normalisations to those of pictures that this very generator draws; leaves it fixed."""
    # Every normalisation keeps a running mean and variance of its input, for use without a batch.
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        # Forget those of training, which were of other weights.
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    # In training mode, in which a forward pass updates the statistics; nothing is learnt, for there is no gradient.
    generator.train()
    randomness = torch.Generator().manual_seed(config.seed)
    # Five thousand pictures, all labels alike: enough that chance hardly shows in the statistics.
    labels = torch.arange(_STATISTICS_ROWS).to(device) % generator.shape.num_labels
    for _ in range(_STATISTICS_BATCHES):
        generator(torch.randn(len(labels), config.latent, generator=randomness).to(device), labels)
    # As it was: the generator in training goes on with its own momentum.
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    config, job = prepare(GanConfig, "gan", arguments, scratch, _DRY_NETWORK)
    # Sizes from the data and the settings; labels are always given, for the GAN has no other way to be asked for a
    # kind.
    shape = GanShape(
        side=job.side,
        channels=job.channels,
        latent=config.latent,
        num_labels=len(job.dataset.labels),
        generator_width=config.generator_width,
        discriminator_width=config.discriminator_width,
    )
    # Everything from here on is the loop in `loop.py`, with the two-phase step and the evaluation above.
    trainer = GanTrainer(
        shape,
        config,
        job.parts,
        job.device,
        lambda generator: draw_preview(generator, job.output),
        compiles=should_compile(arguments.compile, nn.Identity(), job.device, config.num_steps),
    )
    open_run(trainer, job.output, arguments, job.dataset.sha256())
    tqdm.write(
        f"{job.dataset.name}: {len(job.parts.train):,} images, {num_parameters(trainer.network):,} parameters draw, "
        f"{num_parameters(trainer.discriminator):,} judge, {job.device}"
    )
    trainer.run(job.output)

    generator = trainer.network.cpu().float().eval()
    # There is no loss to look at in the end: the loss says which network is ahead, not how good pictures are. So
    # pictures are drawn, and compared with those of the test split.
    scores = score(generator, config, job)
    write_samples(job.output / SAMPLES_FILE, draw_from_gan(generator), len(job.dataset.labels))
    # The discriminator is counted, and stays behind: what ships is the generator alone.
    outcome = Outcome(
        summary=f"The generator of a class-conditional GAN that draws {job.dataset.description} by label.",
        parameters={
            "the generator": num_parameters(generator),
            "the discriminator": num_parameters(trainer.discriminator),
        },
        scores={} if scores is None else {DRAWN: scores},
        seeds=compare_seeds(scores, arguments.seeds_of, config, job) if arguments.seeds_of else (),
    )
    publish("train_gan", trainer, job, outcome, gan_graphs(generator), frozenset({DECODER}), _PLATES)


@torch.no_grad()
def draw_preview(generator: Generator, output: Path) -> None:
    """Draw a line of pictures for each label, from the same latents every time."""
    shape, device = generator.shape, next(generator.parameters()).device
    # The same latents in every row: what differs down a column is the label alone.
    latents = torch.randn(_PREVIEWED, shape.latent, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(shape.num_labels).repeat_interleave(_PREVIEWED)
    drawn = generator(latents.repeat(shape.num_labels, 1).to(device), labels.to(device))
    write_grid(output / PREVIEW_FILE, to_levels(drawn).cpu(), _PREVIEWED)


def score(generator: Generator, config: GanConfig, job: Job) -> GeneratorScores | None:
    """Score the pictures; what was measured before is read back."""
    if job.plan is None or job.classifier is None:
        return None
    scores = score_generator(
        draw_from_gan(generator),
        job.dataset,
        job.classifier,
        job.output / SCORES_FILE,
        recipe=config.dataset,
        identity=identity_of(generator),
        section=SECTION,
        plan=job.plan,
        device=job.device,
    )
    tqdm.write(
        f"{METRIC} {scores.generated.frechet:.3g}, floor {scores.floor.frechet:.3g}; called by their label "
        f"{scores.agreement:.2%}; accuracy of a classifier taught by them {scores.accuracy_from_generated:.2%}"
    )
    return scores


def compare_seeds(
    scores: GeneratorScores | None, siblings: Sequence[Path], config: GanConfig, job: Job
) -> tuple[SeedScores, ...]:
    """Put this run's scores beside those of other seeds.

    Raises: ValueError when this run is not scored, or one of the others does not compare with it.
    """
    if scores is None:
        raise ValueError("--seeds-of compares scores; leave out --skip-scores.")
    return SeedScores.of(config.seed, scores), *read_siblings(siblings, config.to_json(), job.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_generator_parser(
        "train_gan", "Train a class-conditional GAN on pictures, score and export it.", GanConfig
    )
    parser.add_argument(
        "--seeds-of",
        type=Path,
        nargs="+",
        metavar="DIR",
        default=[],
        help="run folders of other seeds, whose scores the report puts beside this run's",
    )
    return run_command(train, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
