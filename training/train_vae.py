"""Trains a variational autoencoder on pictures, scores it, exports it, and reports on it.

    python -m training.train_vae --dataset fashion-mnist

Read `train` first: data, training, the prior that is fitted afterwards, scores on test, export, report. The method is
Kingma & Welling 2014, arXiv 1312.6114.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from training.command_line import open_run, run_command, should_compile
from training.data.datasets import Parts, draw_rows
from training.export.generators import DECODER, ENCODER, PRIOR, RECONSTRUCTION, vae_graphs
from training.export.version import num_parameters
from training.generators import GeneratorConfig, Job, Outcome, make_generator_parser, prepare, publish
from training.loop import Trainer
from training.losses import elbo_terms, to_levels, to_signed
from training.networks.mixture import PRIOR_FILE, Mixture, load_or_fit_prior
from training.networks.vae import Vae, VaeShape
from training.reports.generators import Plate
from training.reports.pictures import (
    PLAIN_SAMPLES_FILE,
    PREVIEW_FILE,
    RECONSTRUCTIONS_FILE,
    SAMPLES_FILE,
    WALK_FILE,
    write_grid,
    write_reconstructions,
    write_samples,
    write_walk,
)
from training.scores.generators import METRIC, GeneratorScores, draw_from_vae, identity_of, score_generator
from training.scores.likelihood import LikelihoodScores, score_likelihood
from training.scores.measured import SCORES_FILE
from training.settings import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, setting

FROM_PRIOR, FROM_NORMAL = "drawn from the fitted prior", "drawn from N(0, 1)"
_PREVIEWED = 10
# Rows of an evaluation's batch; of a preview, columns.
_SCORED_ROWS = 250
# The smallest network and prior that go through every line.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig(GeneratorConfig):
    """The settings of a VAE."""

    # How much a picture may be summed up in. More numbers cost nothing if they are not needed: the rate of an unused
    # one falls to zero.
    latent: int = setting(32, "numbers in a latent", COUNT)
    # How large: the picture is a quarter as wide and high where the latent is read off, with four times the channels.
    width: int = setting(24, "channels at full resolution; a quarter of it has four times as many", COUNT)
    batch_size: int = setting(128, "images a step", COUNT)
    # How long, and how many pictures a step.
    num_steps: int = setting(5_000, "optimiser steps", COUNT)
    # With the label given, the latent need not hold it; without, the fitted prior tells labels apart afterwards.
    conditional: bool = setting(False, "give encoder and decoder the label")
    # The loss is a sum over a thousand pixels, and its gradients are large; Adam divides their size out, and the clip
    # is there for the first steps, when a wrong scale makes a single pixel cost hundreds of nats.
    learning_rate: float = setting(0.002, "peak learning rate (Adam)", POSITIVE)
    warmup: float = setting(0.02, "part of the run with a rising learning rate", SHARE)
    # Two remedies for one disease, posterior collapse: the decoder learns to do without the latent before the encoder
    # has learnt to use it, and there is no way back.
    kl_warmup: float = setting(0.1, "part of the run in which the weight of the KL term rises from 0 to 1", SHARE)
    free_bits: float = setting(
        0.05, "nats of a latent's number, in the mean of a batch, that cost nothing", NOT_NEGATIVE
    )
    gradient_clip: float = setting(100.0, "largest norm of the whole gradient", POSITIVE)
    # Not of the network: of the prior that is fitted once it is trained.
    mixture_components: int = setting(
        8, "components a label of the prior that is fitted to the latents afterwards", COUNT
    )


# The trainer: the negative ELBO, its two aids at the start, and the true bound on held-out pictures.
class VaeTrainer(Trainer):
    """A VAE's step and evaluation."""

    config: VaeConfig
    network: Vae

    def __init__(
        self,
        network: Vae,
        config: VaeConfig,
        parts: Parts,
        device: torch.device,
        preview: Callable[[], None],
        *,
        compiles: bool,
    ) -> None:
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(
            network,
            config,
            device,
            # One Adam for both halves: encoder and decoder want the same thing, unlike the two networks of a GAN.
            [torch.optim.Adam(network.parameters(), lr=config.learning_rate)],
            num_steps=config.num_steps,
            evaluate_every=config.evaluate_every,
            average_decay=config.average_decay,
            gradient_clip=config.gradient_clip,
        )
        # Evaluations use the network itself, whose batches have another size, for which it would be compiled again.
        self.compiled = torch.compile(network, dynamic=False) if compiles else network
        # The test part is in `parts`, too; no step and no evaluation looks at it.
        self.parts = parts
        self.train = parts.train.to(device)
        self.preview = preview

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Take one step up the ELBO; returns its two terms in nats an image, the rate as it was paid for."""
        config = self.config
        # uint8 [B,C,H,W], and labels [B], which an unconditional network does not look at.
        batch = self.train.take(draw_rows(len(self.train), step, config.batch_size, config.seed).to(self.device))
        # The reparametrisation trick: noise [B,Z] is an input, so the latent mean + noise * deviation is a smooth
        # function of the encoder's outputs, and gradients pass through the draw (section 2.4).
        noise = torch.randn(len(batch), config.latent, generator=generator, device=self.device)
        # Encoder, draw and decoder in one pass: distortion [B], rate by number [B,Z].
        with self.autocast():
            terms = elbo_terms(self.compiled, batch.levels, batch.labels, noise)
        # Free bits: a number of the latent whose rate, in the mean of the batch, is below the floor gets no gradient
        # from it. Else the network would rather switch numbers off than learn to use them (Kingma et al. 2016, arXiv
        # 1606.04934, appendix C). [B,Z] -> [Z] -> a scalar.
        rate = terms.kl.mean(0).clamp(min=config.free_bits).sum()
        # Means over the batch [B], sums over pixels and numbers: a nat of rate must weigh exactly as much as a nat of
        # distortion, or the sum is no bound on the likelihood.
        distortion = terms.distortion.mean()
        # -ELBO = distortion + rate; its minimum is the best code for the pictures that this network can give (equation
        # 3).
        self.descend(distortion + self.kl_weight(step) * rate)
        return {"distortion": distortion.detach(), "rate": rate.detach()}

    def kl_weight(self, step: int) -> float:
        """The weight of the rate, which rises from 0 to 1 at the start of the run.

        At first the decoder knows nothing of the latent, and paying for it is a loss on all sides: with the full weight
        the encoder would give up before the decoder has learnt to listen (Sønderby et al. 2016, arXiv 1602.02282).
        """
        # Linear: 0 at the first step, 1 from `kl_warmup` of the run on.
        progress = (step + 1) / (self.num_steps + 1)
        return min(progress / self.config.kl_warmup, 1.0) if self.config.kl_warmup else 1.0

    def evaluate(self) -> dict[str, float]:
        """Estimate the ELBO of the held-out part with the averaged weights, and draw the preview."""
        held_out, config = self.parts.held_out, self.config
        # The same noise at every evaluation: its curve shows the network, not luck.
        noise = torch.randn(len(held_out), config.latent, generator=torch.Generator().manual_seed(config.seed))
        distortion, rate = 0.0, 0.0
        # Sums over the pictures, divided at the end: the last batch may be smaller.
        for rows in torch.split(torch.arange(len(held_out)), _SCORED_ROWS):
            batch = held_out.take(rows)
            with self.autocast():
                levels, labels = batch.levels.to(self.device), batch.labels.to(self.device)
                terms = elbo_terms(self.network, levels, labels, noise[rows].to(self.device))
            distortion += float(terms.distortion.sum())
            rate += float(terms.kl.sum())  # without free bits and warm-up: the true bound
        self.preview()
        count = len(held_out)
        return {
            "held_out_distortion": distortion / count,
            "held_out_rate": rate / count,
            "held_out_elbo": -(distortion + rate) / count,
        }


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    config, job = prepare(VaeConfig, "vae", arguments, scratch, _DRY_NETWORK)
    # 0 labels: a network that is not told any.
    num_labels = len(job.dataset.labels) if config.conditional else 0
    network = Vae(
        VaeShape(side=job.side, channels=job.channels, latent=config.latent, width=config.width, num_labels=num_labels)
    )
    # Measured on a CPU: the compiled step is slower than the plain one.
    compiles = should_compile(arguments.compile, network, job.device, config.num_steps, pays=job.device.type == "cuda")
    trainer = VaeTrainer(network, config, job.parts, job.device, lambda: draw_preview(network, job), compiles=compiles)
    open_run(trainer, job.output, arguments, job.dataset.sha256())
    tqdm.write(
        f"{job.dataset.name}: {len(job.parts.train):,} images, {num_parameters(network):,} parameters, {job.device}"
    )
    trainer.run(job.output)

    path = job.output / PRIOR_FILE
    # Only now: the mixture describes where the finished encoder puts the train pictures.
    mixture = load_or_fit_prior(
        network, job.parts.train, config.mixture_components, config.seed, path, identity_of(network)
    )
    scores, likelihood = score(trainer, mixture, job)
    finish(trainer, mixture, job, scores, likelihood)


@torch.no_grad()
def draw_preview(network: Vae, job: Job) -> None:
    """Draw held-out pictures, their reconstructions, and pictures of drawn latents, a line each."""
    held_out = job.parts.held_out.take(torch.arange(min(_PREVIEWED, len(job.parts.held_out))))
    one_hot = network.one_hot(held_out.labels.to(job.device))
    # Three lines: what went in, what comes out of its mean, what comes out of noise. The second shows the decoder, the
    # third the prior.
    mean, _ = network.encoder(to_signed(held_out.levels.to(job.device)), one_hot)
    # The same noise each time, so that previews of one run can be compared.
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(job.device)
    lines = [held_out.levels, *(to_levels(network.decoder(latents, one_hot)[0]).cpu() for latents in (mean, drawn))]
    write_grid(job.output / PREVIEW_FILE, torch.cat(lines), len(held_out))


def score(
    trainer: VaeTrainer, mixture: Mixture, job: Job
) -> tuple[dict[str, GeneratorScores], LikelihoodScores | None]:
    """Score likelihoods and both ways to draw; what was measured before is read back."""
    if job.plan is None:
        return {}, None
    network, config, cache = trainer.network, trainer.config, job.output / SCORES_FILE
    likelihood = score_likelihood(network, job.parts, cache, identity=identity_of(network), plan=job.likelihood)
    linear = f"linear model {likelihood.linear.mean:.2f}" if likelihood.linear else "no linear model: too many pixels"
    tqdm.write(f"ELBO {likelihood.elbo.mean:.2f} nats, {linear}")
    if job.classifier is None:
        return {}, likelihood
    scores = {}
    # Both ways to draw are scored: the difference between them is what the fitted prior is worth.
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
            device=job.device,
        )
    best = scores[FROM_PRIOR]
    tqdm.write(
        f"{METRIC} {best.generated.frechet:.3g} ({scores[FROM_NORMAL].generated.frechet:.3g} from N(0, 1), "
        f"floor {best.floor.frechet:.3g})"
    )
    return scores, likelihood


def finish(
    trainer: VaeTrainer,
    mixture: Mixture,
    job: Job,
    scores: dict[str, GeneratorScores],
    likelihood: LikelihoodScores | None,
) -> None:
    """Draw the report's pictures, export and report."""
    # Exported and drawn on the CPU in float32, as it is served there.
    network, test, config = trainer.network.cpu().float().eval(), job.parts.test, trainer.config
    num_labels = len(job.dataset.labels)
    # Pictures tell at a glance what no figure does: blur, missing kinds, holes between latents.
    write_reconstructions(job.output / RECONSTRUCTIONS_FILE, network, test)
    write_samples(job.output / SAMPLES_FILE, draw_from_vae(network, mixture), num_labels)
    write_samples(job.output / PLAIN_SAMPLES_FILE, draw_from_vae(network, None), num_labels)
    write_walk(job.output / WALK_FILE, network, test)
    condition = ", conditioned on the label" if config.conditional else ""
    outcome = Outcome(
        summary=f"A variational autoencoder of {job.dataset.description}{condition}: it encodes, reconstructs and "
        "draws pictures, by label through a prior that was fitted to its latents.",
        parameters={"the network": num_parameters(network), "the prior": mixture.num_parameters},
        scores=scores,
        likelihood=likelihood,
    )
    # The prior draws by label in any case; the other graphs take one where the network does.
    labelled = {PRIOR, DECODER, ENCODER, RECONSTRUCTION} if config.conditional else {PRIOR}
    publish("train_vae", trainer, job, outcome, vae_graphs(network, mixture), frozenset(labelled), _PLATES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_generator_parser(
        "train_vae", "Train a variational autoencoder on pictures, score and export it.", VaeConfig
    )
    return run_command(train, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
