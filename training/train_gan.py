"""Trains a class-conditional generative adversarial network on pictures, scores it, exports it, and reports on it.

    python -m training.train_gan --dataset fashion-mnist

It owns the order of events: data, training, scores against test, export, report with the runs of other seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from training.checkpoints import open_run
from training.device import can_compile
from training.generators.command_line import Job, make_parser, prepare, run_command
from training.generators.config import GanConfig
from training.generators.drawing import draw_from_gan, identity_of
from training.generators.finished import FinishedGenerator
from training.generators.gallery import SAMPLES_FILE, write_samples
from training.generators.gan_trainer import GanTrainer
from training.generators.graphs import DECODER, gan_graphs
from training.generators.likelihood import to_levels
from training.generators.measured import SCORES_FILE
from training.generators.parts import Parts
from training.generators.preview import PREVIEW_FILE, write_grid
from training.generators.publishing import publish
from training.generators.report import Plate
from training.generators.scoring import METRIC, GeneratorScores, score_generator
from training.generators.siblings import SECTION, SeedScores, read_siblings
from training.generators.stretches import restore_run, run_steps
from training.networks.gan import GanShape, Generator
from training.networks.size import num_parameters

DRAWN = "drawn by label"
_PREVIEWED = 8
_DRY_NETWORK = {"generator_width": 2, "discriminator_width": 2}
_PLATES: tuple[Plate, ...] = (("Samples", SAMPLES_FILE, "A row for each label, not picked."),)


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    config, device, job, parts = prepare(GanConfig, "gan", arguments, scratch, _DRY_NETWORK)
    trainer = GanTrainer(
        make_shape(config, parts, len(job.dataset.labels)),
        config,
        parts,
        device,
        lambda generator, _: draw_preview(generator, job.output),
        compiles=arguments.compile and not scratch and can_compile(torch.nn.Identity(), device),
    )
    open_run(lambda path: restore_run(trainer, path), job.output, resume=arguments.resume)
    tqdm.write(
        f"{job.dataset.name}: {len(parts.train):,} images, {num_parameters(trainer.generator):,} parameters draw, "
        f"{num_parameters(trainer.discriminator):,} judge, {device}"
    )
    run_steps(trainer, job.output)
    finish(trainer, job, arguments.seeds_of)


def make_shape(config: GanConfig, parts: Parts, num_labels: int) -> GanShape:
    """The sizes of the networks that the settings ask for."""
    return GanShape(
        side=parts.side,
        channels=parts.channels,
        latent=config.latent,
        num_labels=num_labels,
        generator_width=config.generator_width,
        discriminator_width=config.discriminator_width,
    )


@torch.no_grad()
def draw_preview(generator: Generator, output: Path) -> None:
    """Draw a line of pictures for each label, from the same latents every time."""
    shape, device = generator.shape, next(generator.parameters()).device
    latents = torch.randn(_PREVIEWED, shape.latent, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(shape.num_labels).repeat_interleave(_PREVIEWED)
    drawn = generator(latents.repeat(shape.num_labels, 1).to(device), labels.to(device))
    write_grid(output / PREVIEW_FILE, to_levels(drawn).cpu(), _PREVIEWED)


def finish(trainer: GanTrainer, job: Job, siblings: Sequence[Path]) -> None:
    """Score, draw the report's pictures, export and report; `siblings` are the folders of runs of other seeds."""
    generator = trainer.averaged.cpu().float().eval()
    scores = score(generator, trainer.config, job)
    write_samples(job.output / SAMPLES_FILE, draw_from_gan(generator), len(job.dataset.labels))
    finished = FinishedGenerator(
        name=job.name,
        script="training.train_gan",
        summary=f"The generator of a class-conditional GAN that draws {job.dataset.description} by label.",
        config=trainer.config,
        dataset=job.dataset,
        parts=trainer.parts,
        progress=trainer.progress,
        parameters={
            "the generator": num_parameters(generator),
            "the discriminator": num_parameters(trainer.discriminator),
        },
        device=trainer.device,
        scores={} if scores is None else {DRAWN: scores},
        seeds=compare_seeds(scores, siblings, trainer.config, job) if siblings else (),
    )
    publish(finished, gan_graphs(generator), frozenset({DECODER}), _PLATES, job)


def score(generator: Generator, config: GanConfig, job: Job) -> GeneratorScores | None:
    """Score the pictures; what was measured before is read back."""
    if job.plan is None:
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
    parser = make_parser("train_gan", "Train a class-conditional GAN on pictures, score and export it.", GanConfig)
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
