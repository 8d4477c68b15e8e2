"""Trains a VAE: the negative ELBO with KL warm-up and free bits, averaged weights, scores on the held-out part.

It owns a step and a score; the loop around them is `stretches.py`'s. Free bits: Kingma et al. 2016, arXiv 1606.04934,
appendix C (the mean over the batch, number by number); KL warm-up: Sønderby et al. 2016, arXiv 1602.02282.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.generators.config import VaeConfig
from training.generators.likelihood import gaussian_kl, logistic_log_likelihood, to_signed
from training.generators.parts import Parts, draw_rows
from training.generators.stretches import Progress, autocast, step_generator
from training.networks.vae import Vae
from training.optimizers import WeightAverage, rate_factor

_SCORED_ROWS = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The two parts of the negative ELBO of each picture, in nats [B]; `kl` is the rate by number [B,Z]."""

    distortion: Tensor
    kl: Tensor


def elbo_terms(network: Callable[..., Any], levels: Tensor, labels: Tensor, noise: Tensor) -> Terms:
    """Estimate distortion and rate of uint8 pictures with one latent each, drawn by `noise` [B,Z]."""
    mean, log_variance, location, log_scale = network(to_signed(levels), labels, noise)
    likelihood = logistic_log_likelihood(levels.float(), location.float(), log_scale.float())
    return Terms(distortion=-likelihood, kl=gaussian_kl(mean.float(), log_variance.float()))


class VaeTrainer:
    """One run: hand it to `run_steps`, then find the averaged weights in the network."""

    def __init__(
        self,
        network: Vae,
        config: VaeConfig,
        parts: Parts,
        device: torch.device,
        preview: Callable[[Vae, int], None],
        *,
        compiles: bool,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = torch.compile(network, dynamic=False) if compiles else network
        self.config = config
        self.parts = parts
        self.device = device
        self.preview = preview
        self.progress = Progress()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.average = WeightAverage(network, config.average_decay)

    def train_step(self, step: int) -> dict[str, float]:
        """Take one step; returns the two terms in nats an image, rate as it was paid for."""
        config = self.config
        self.network.train()
        progress = (step + 1) / (config.num_steps + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_factor("cosine", progress, config.warmup)
        batch = self.parts.train.take(draw_rows(len(self.parts.train), step, config.batch_size, config.seed))
        noise = torch.randn(len(batch), config.latent, generator=step_generator(config, step)).to(self.device)
        with autocast(config, self.device):
            terms = elbo_terms(self.steps, batch.levels.to(self.device), batch.labels.to(self.device), noise)
        kl_weight = min(progress / config.kl_warmup, 1.0) if config.kl_warmup else 1.0
        rate = terms.kl.mean(0).clamp(min=config.free_bits).sum()
        distortion = terms.distortion.mean()
        self.optimizer.zero_grad(set_to_none=True)
        (distortion + kl_weight * rate).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.average.update(self.network)
        return {"distortion": float(distortion.detach()), "rate": float(rate.detach())}

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Estimate the ELBO of the held-out part with the averaged weights, and draw the preview."""
        current = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.load_averaged()
        held_out = self.parts.held_out
        generator = torch.Generator().manual_seed(self.config.seed)
        noise = torch.randn(len(held_out), self.config.latent, generator=generator)
        distortion, rate = 0.0, 0.0
        for rows in torch.split(torch.arange(len(held_out)), _SCORED_ROWS):
            batch = held_out.take(rows)
            with autocast(self.config, self.device):
                levels, labels = batch.levels.to(self.device), batch.labels.to(self.device)
                terms = elbo_terms(self.network, levels, labels, noise[rows].to(self.device))
            distortion += float(terms.distortion.sum())
            rate += float(terms.kl.sum())
        self.preview(self.network, self.progress.step)
        self.network.load_state_dict(current)
        count = len(held_out)
        return {
            "held_out_distortion": distortion / count,
            "held_out_rate": rate / count,
            "held_out_elbo": -(distortion + rate) / count,
        }

    def load_averaged(self) -> None:
        """Load the averaged weights, with the normalisation statistics that were averaged along."""
        self.network.load_state_dict(self.average.state)
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint keeps."""
        return {
            "network": self.network.state_dict(),
            "average": {"state": self.average.state, "num_updates": self.average.num_updates},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.average.state = state["average"]["state"]
        self.average.num_updates = state["average"]["num_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
