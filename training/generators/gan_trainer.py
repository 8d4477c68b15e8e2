"""Trains a class-conditional GAN: hinge loss, one step of each network in turn, DiffAugment, averaged generator.

It owns a step and a score; the loop around them is `stretches.py`'s. The averaged generator's normalisation statistics
are computed anew, for an average of statistics belongs to no generator (Yazici et al. 2019, arXiv 1806.04498). Hinge
loss: Lim & Ye 2017, arXiv 1705.02894.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.generators.config import GanConfig
from training.generators.diff_augment import diff_augment
from training.generators.likelihood import to_signed
from training.generators.parts import Parts, Pictures, draw_rows
from training.generators.stretches import Progress, autocast, step_generator
from training.networks.gan import Discriminator, GanShape, Generator
from training.optimizers import WeightAverage

_STATISTICS_BATCHES, _STATISTICS_ROWS = 20, 250


class GanTrainer:
    """One run: hand it to `run_steps`, then find the averaged generator in `averaged`."""

    def __init__(
        self,
        shape: GanShape,
        config: GanConfig,
        parts: Parts,
        device: torch.device,
        preview: Callable[[Generator, int], None],
        *,
        compiles: bool,
    ) -> None:
        self.generator = Generator(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = Discriminator(shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.generator)
        self.draws = torch.compile(self.generator, dynamic=False) if compiles else self.generator
        self.config = config
        self.parts = parts
        self.device = device
        self.preview = preview
        self.progress = Progress()
        betas = (config.momentum, 0.999)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), config.generator_rate, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.discriminator_rate, betas
        )
        self.average = WeightAverage(self.generator, config.average_decay)

    def train_step(self, step: int) -> dict[str, float]:
        """Take a step of the discriminator, then one of the generator; returns losses and realness."""
        config, randomness = self.config, step_generator(self.config, step)
        self._set_rates(step)
        batch = self.parts.train.take(draw_rows(len(self.parts.train), step, config.batch_size, config.seed))
        losses = self._train_discriminator(batch, randomness)
        losses |= self._train_generator(len(batch), randomness)
        self.average.update(self.generator)
        return losses

    def _set_rates(self, step: int) -> None:
        """Hold both rates, then let them fall to zero."""
        start = self.config.decay_from * self.config.num_steps
        factor = min((self.config.num_steps - step) / max(self.config.num_steps - start, 1), 1.0)
        rates = (self.config.generator_rate, self.config.discriminator_rate)
        for optimizer, rate in zip((self.generator_optimizer, self.discriminator_optimizer), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _train_discriminator(self, batch: Pictures, randomness: torch.Generator) -> dict[str, float]:
        real = to_signed(batch.levels)
        labels = batch.labels.to(self.device)
        with torch.no_grad():
            drawn = self._draw(labels, randomness)
        # One pass over both, so that the power iteration of the spectral norm is taken once a step.
        pictures = self._augmented(torch.cat([real.to(self.device), drawn]), randomness)
        with autocast(self.config, self.device):
            realness = self.discriminator(pictures, torch.cat([labels, labels])).float()
        of_real, of_drawn = realness.chunk(2)
        loss = (1 - of_real).relu().mean() + (1 + of_drawn).relu().mean()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimizer.step()
        return {
            "discriminator_loss": float(loss.detach()),
            "realness_of_real": float(of_real.detach().mean()),
            "realness_of_drawn": float(of_drawn.detach().mean()),
        }

    def _train_generator(self, num_rows: int, randomness: torch.Generator) -> dict[str, float]:
        num_labels = self.generator.shape.num_labels
        labels = torch.randint(0, num_labels, (num_rows,), generator=randomness).to(self.device)
        self.discriminator.requires_grad_(False)
        pictures = self._augmented(self._draw(labels, randomness), randomness)
        with autocast(self.config, self.device):
            realness = self.discriminator(pictures, labels).float()
        loss = -realness.mean()
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        return {"generator_loss": float(loss.detach())}

    def _draw(self, labels: Tensor, randomness: torch.Generator) -> Tensor:
        latents = torch.randn(len(labels), self.config.latent, generator=randomness).to(self.device)
        with autocast(self.config, self.device):
            pictures: Tensor = self.draws(latents, labels)
        return pictures.float()

    def _augmented(self, pictures: Tensor, randomness: torch.Generator) -> Tensor:
        changed = diff_augment(pictures, self.config.translation, self.config.cutout, randomness)
        return changed.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Judge held-out and drawn pictures by the discriminator, whose gap tells overfitting; draw the preview."""
        self.load_averaged()
        self.preview(self.averaged, self.progress.step)
        held_out = self.parts.held_out.take(torch.arange(min(len(self.parts.held_out), 1000)))
        with autocast(self.config, self.device):
            pictures = to_signed(held_out.levels).to(self.device, memory_format=torch.channels_last)
            realness = self.discriminator(pictures, held_out.labels.to(self.device)).float()
        return {"realness_of_held_out": float(realness.mean())}

    @torch.no_grad()
    def load_averaged(self) -> None:
        """Load the averaged weights into `averaged` and compute its normalisation statistics anew."""
        self.averaged.load_state_dict(self.average.state)
        renew_statistics(self.averaged, self.config, self.device)

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint keeps."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": {"state": self.average.state, "num_updates": self.average.num_updates},
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.state = state["average"]["state"]
        self.average.num_updates = state["average"]["num_updates"]
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])


def renew_statistics(generator: Generator, config: GanConfig, device: torch.device) -> None:
    """Set the statistics of all normalisations to those of pictures that this very generator draws; leaves it fixed."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    generator.train()
    randomness = torch.Generator().manual_seed(config.seed)
    labels = torch.arange(_STATISTICS_ROWS).to(device) % generator.shape.num_labels
    for _ in range(_STATISTICS_BATCHES):
        generator(torch.randn(len(labels), config.latent, generator=randomness).to(device), labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()
