"""Trains a variational autoencoder on pictures, scores it, exports it, and reports on it.

    python -m training.train_vae --dataset fashion-mnist

It owns the order of events: data, training, the prior that is fitted afterwards, scores on test, export, report.
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
from training.generators.config import VaeConfig
from training.generators.drawing import draw_from_vae, identity_of
from training.generators.finished import FinishedGenerator
from training.generators.gallery import (
    PLAIN_SAMPLES_FILE,
    RECONSTRUCTIONS_FILE,
    SAMPLES_FILE,
    WALK_FILE,
    write_reconstructions,
    write_samples,
    write_walk,
)
from training.generators.graphs import DECODER, ENCODER, PRIOR, RECONSTRUCTION, vae_graphs
from training.generators.likelihood import to_levels, to_signed
from training.generators.likelihood_scores import LikelihoodScores, score_likelihood
from training.generators.measured import SCORES_FILE
from training.generators.parts import Parts
from training.generators.preview import PREVIEW_FILE, write_grid
from training.generators.prior import PRIOR_FILE, Mixture, load_or_fit_prior
from training.generators.publishing import publish
from training.generators.report import Plate
from training.generators.scoring import METRIC, GeneratorScores, score_generator
from training.generators.stretches import restore_run, run_steps
from training.generators.vae_trainer import VaeTrainer
from training.networks.size import num_parameters
from training.networks.vae import Vae, VaeShape

FROM_PRIOR, FROM_NORMAL = "drawn from the fitted prior", "drawn from N(0, 1)"
_PREVIEWED = 10
_DRY_NETWORK = {"width": 2, "mixture_components": 2}
_PLATES: tuple[Plate, ...] = (
    (
        "Reconstructions",
        RECONSTRUCTIONS_FILE,
        "The first pictures of test, each above its reconstruction from the mean of its latent.",
    ),
    (
        "Samples from the fitted prior",
        SAMPLES_FILE,
        "A row for each label, not picked, from the mixture of Gaussians that was fitted to the latents of the label.",
    ),
    (
        "Samples from N(0, 1)",
        PLAIN_SAMPLES_FILE,
        "The same number of pictures of standard normal latents, which say nothing of a label unless the network is "
        "conditioned on it.",
    ),
    (
        "A walk over a plane",
        WALK_FILE,
        "The corners are the latents of four test pictures of different labels; between them, latents are mixed.",
    ),
)


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    config, device, job, parts = prepare(VaeConfig, "vae", arguments, scratch, _DRY_NETWORK)
    network = Vae(make_shape(config, parts, len(job.dataset.labels)))
    trainer = VaeTrainer(
        network,
        config,
        parts,
        device,
        lambda network, _: draw_preview(network, parts, job.output),
        compiles=arguments.compile and not scratch and can_compile(network, device),
    )
    open_run(lambda path: restore_run(trainer, path), job.output, resume=arguments.resume)
    tqdm.write(f"{job.dataset.name}: {len(parts.train):,} images, {num_parameters(network):,} parameters, {device}")
    run_steps(trainer, job.output)
    finish(trainer, job)


def make_shape(config: VaeConfig, parts: Parts, num_labels: int) -> VaeShape:
    """The sizes of the network that the settings ask for."""
    return VaeShape(
        side=parts.side,
        channels=parts.channels,
        latent=config.latent,
        width=config.width,
        num_labels=num_labels if config.conditional else 0,
    )


@torch.no_grad()
def draw_preview(network: Vae, parts: Parts, output: Path) -> None:
    """Draw held-out pictures, their reconstructions, and pictures of drawn latents, a line each."""
    held_out = parts.held_out.take(torch.arange(min(_PREVIEWED, len(parts.held_out))))
    device = next(network.parameters()).device
    one_hot = network.one_hot(held_out.labels.to(device))
    mean, _ = network.encoder(to_signed(held_out.levels.to(device)), one_hot)
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    lines = [held_out.levels, *(to_levels(network.decoder(latents, one_hot)[0]).cpu() for latents in (mean, drawn))]
    write_grid(output / PREVIEW_FILE, torch.cat(lines), len(held_out))


def finish(trainer: VaeTrainer, job: Job) -> None:
    """Fit the prior, score, draw the report's pictures, export and report; the network holds the averaged weights."""
    network, parts, config = trainer.network, trainer.parts, trainer.config
    mixture = load_or_fit_prior(network, parts.train, config, job.output / PRIOR_FILE, identity_of(network))
    scores, likelihood = score(network, mixture, parts, config, job)
    network = network.cpu().float().eval()
    num_labels = len(job.dataset.labels)
    write_reconstructions(job.output / RECONSTRUCTIONS_FILE, network, parts.test)
    write_samples(job.output / SAMPLES_FILE, draw_from_vae(network, mixture), num_labels)
    write_samples(job.output / PLAIN_SAMPLES_FILE, draw_from_vae(network, None), num_labels)
    write_walk(job.output / WALK_FILE, network, parts.test)
    condition = ", conditioned on the label" if config.conditional else ""
    finished = FinishedGenerator(
        name=job.name,
        script="training.train_vae",
        summary=f"A variational autoencoder of {job.dataset.description}{condition}: it encodes, reconstructs and "
        "draws pictures, by label through a prior that was fitted to its latents.",
        config=config,
        dataset=job.dataset,
        parts=parts,
        progress=trainer.progress,
        parameters={"the network": num_parameters(network), "the prior": mixture_size(mixture)},
        device=trainer.device,
        scores=scores,
        likelihood=likelihood,
    )
    labelled = {PRIOR, DECODER, ENCODER, RECONSTRUCTION} if config.conditional else {PRIOR}
    publish(finished, vae_graphs(network, mixture), frozenset(labelled), _PLATES, job)


def mixture_size(mixture: Mixture) -> int:
    """Count the numbers of a mixture; of a factor, the triangle."""
    width = mixture.means.shape[2]
    return mixture.weights.numel() + mixture.means.numel() + mixture.weights.numel() * width * (width + 1) // 2


def score(
    network: Vae, mixture: Mixture, parts: Parts, config: VaeConfig, job: Job
) -> tuple[dict[str, GeneratorScores], LikelihoodScores | None]:
    """Score likelihoods and both ways to draw; what was measured before is read back."""
    if job.plan is None:
        return {}, None
    cache = job.output / SCORES_FILE
    likelihood = score_likelihood(network, parts, cache, identity=identity_of(network), plan=job.likelihood)
    scores = {}
    for title, section, prior in ((FROM_PRIOR, "prior", mixture), (FROM_NORMAL, "standard normal", None)):
        scores[title] = score_generator(
            draw_from_vae(network, prior),
            job.dataset,
            job.classifier,
            cache,
            recipe=config.dataset,
            identity=identity_of(network) if prior is None else identity_of(network, prior),
            section=section,
            labelled=prior is not None or config.conditional,
            plan=job.plan,
        )
    best = scores[FROM_PRIOR]
    tqdm.write(
        f"ELBO {likelihood.elbo.mean:.2f} nats, linear model {likelihood.linear.mean:.2f}; "
        f"{METRIC} {best.generated.frechet:.3g} ({scores[FROM_NORMAL].generated.frechet:.3g} from N(0, 1), "
        f"floor {best.floor.frechet:.3g})"
    )
    return scores, likelihood


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser("train_vae", "Train a variational autoencoder on pictures, score and export it.", VaeConfig)
    return run_command(train, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
