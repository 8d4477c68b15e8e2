"""The graphs of a generator, as modules that own everything between pixels of 256 levels and latents.

Noise is always an input. Every row is computed alike whatever the batch, so that a seed's picture is the same in any
company: linear layers go out as convolutions of one position. It knows neither files nor ONNX Runtime.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.export import write_module
from training.generators.likelihood import gaussian_kl, pixel_log_likelihood, to_levels, to_signed
from training.generators.prior import Mixture
from training.networks.gan import ConditionalNorm, Generator, UpBlock
from training.networks.vae import Decoder, Encoder, Vae

DECODER, PRIOR, ENCODER, RECONSTRUCTION = "decoder", "prior", "encoder", "reconstruction"
NUM_SAMPLES = 8
OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    DECODER: ("image",),
    PRIOR: ("latent",),
    ENCODER: ("mean", "log_variance"),
    RECONSTRUCTION: ("reconstruction", "error_map", "rate", "distortion"),
}
_EXAMPLE_ROWS = 3


class PointConvolution(nn.Module):
    """A linear layer as a 1x1 convolution, whose rows a runtime does not join to one matrix product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,D] into [B,D']."""
        return functional.conv2d(features[:, :, None, None], self.weight, self.bias)[:, :, 0, 0]


class FoldedNorm(nn.Module):
    """A conditional normalisation with fixed statistics: one scale and one shift for each label and channel."""

    def __init__(self, norm: ConditionalNorm) -> None:
        super().__init__()
        mean, variance = norm.norm.running_mean, norm.norm.running_var
        assert mean is not None and variance is not None  # noqa: PT018
        scale = norm.scale.weight.detach() / (variance + norm.norm.eps).sqrt()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", norm.shift.weight.detach() - mean * scale)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Normalise [B,C,H,W] by the labels [B]."""
        scale, shift = self.get_buffer("scale")[labels], self.get_buffer("shift")[labels]
        return features * scale[:, :, None, None] + shift[:, :, None, None]


class GanDecoder(nn.Module):
    """Draws latents [B,Z] of labels [B] as images uint8 [B,H,W,C]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.generator.stem = PointConvolution(generator.stem)  # type: ignore[assignment]
        for block in (self.generator.low, self.generator.high):
            assert isinstance(block, UpBlock)
            block.first_norm = FoldedNorm(block.first_norm)  # type: ignore[assignment]
            block.second_norm = FoldedNorm(block.second_norm)  # type: ignore[assignment]

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Draw."""
        return to_image(self.generator(latent, label))


class VaeDecoder(nn.Module):
    """Decodes latents [B,Z], with labels [B] where the network is conditioned, to images uint8 [B,H,W,C]."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Decode; pixels are the locations of their distributions."""
        return to_image(self.network.decoder(latent, _one_hot(self.network, label))[0])


class VaePrior(nn.Module):
    """Turns noise [B,Z], a uniform choice [B] and labels [B] into latents [B,Z] of the fitted mixture."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.register_buffer("weights", mixture.weights)
        self.register_buffer("means", mixture.means)
        self.register_buffer("factors", mixture.factors)

    def forward(self, noise: Tensor, choice: Tensor, label: Tensor) -> Tensor:
        """Choose a component, then scale and shift the noise."""
        buffers = {name: self.get_buffer(name) for name in ("weights", "means", "factors")}
        return Mixture(**buffers).latents(noise, choice, label)


class VaeEncoder(nn.Module):
    """Encodes images uint8 [B,H,W,C], with labels [B] where the network is conditioned."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance [B,Z]."""
        mean, log_variance = self.network.encoder(from_image(image), _one_hot(self.network, label))
        return mean, log_variance


class VaeReconstruction(nn.Module):
    """Reconstructs images uint8 [B,H,W,C], and states what they cost in nats with the noise [B,S,Z]."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, image: Tensor, noise: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return reconstruction uint8 [B,H,W,C], error map [B,H,W], rate [B] and distortion [B]."""
        pictures, one_hot = from_image(image), _one_hot(self.network, label)
        num_samples = noise.shape[1]
        mean, log_variance = self.network.encoder(pictures, one_hot)
        latents = mean[:, None] + noise * (0.5 * log_variance).exp()[:, None]
        repeated = None if one_hot is None else one_hot.repeat_interleave(num_samples, 0)
        location, log_scale = self.network.decoder(latents.flatten(0, 1), repeated)
        levels = image.permute(0, 3, 1, 2).float()[:, None].expand(-1, num_samples, -1, -1, -1).flatten(0, 1)
        nats = -pixel_log_likelihood(levels, location, log_scale).sum(1)
        # One sum after the other: a reduction adds up in another order when the batch is one row.
        error_map = functools.reduce(torch.add, nats.view(-1, num_samples, *nats.shape[1:]).unbind(1)) / num_samples
        reconstruction, _ = self.network.decoder(mean, one_hot)
        rate = gaussian_kl(mean, log_variance).sum(1)
        return to_image(reconstruction), error_map, rate, error_map.sum((1, 2))


def row_by_row(network: Vae) -> Vae:
    """Copy a network with its linear layers as convolutions."""
    copied = copy.deepcopy(network)
    assert isinstance(copied.encoder, Encoder)
    assert isinstance(copied.decoder, Decoder)
    copied.encoder.head = PointConvolution(copied.encoder.head)  # type: ignore[assignment]
    copied.decoder.stem = PointConvolution(copied.decoder.stem)  # type: ignore[assignment]
    return copied


def from_image(image: Tensor) -> Tensor:
    """Turn uint8 [B,H,W,C] into the networks' [B,C,H,W] of -1..1."""
    return to_signed(image.permute(0, 3, 1, 2))


def to_image(pictures: Tensor) -> Tensor:
    """Round pictures [B,C,H,W] of -1..1 to uint8 [B,H,W,C]."""
    return to_levels(pictures).permute(0, 2, 3, 1)


def _one_hot(network: Vae, label: Tensor | None) -> Tensor | None:
    """The condition, by comparison instead of `one_hot`, which does not export with a free batch."""
    if label is None:
        return None
    return (label[:, None] == torch.arange(network.shape.num_labels)).float()


def gan_graphs(generator: Generator) -> dict[str, nn.Module]:
    """The graphs of a GAN's version by name."""
    return {DECODER: GanDecoder(generator).eval()}


def vae_graphs(network: Vae, mixture: Mixture) -> dict[str, nn.Module]:
    """The graphs of a VAE's version by name."""
    return {
        DECODER: VaeDecoder(network).eval(),
        PRIOR: VaePrior(mixture).eval(),
        ENCODER: VaeEncoder(network).eval(),
        RECONSTRUCTION: VaeReconstruction(network).eval(),
    }


def write_generator_graph(wrapper: nn.Module, graph: str, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write one of the graphs, of any batch size; `inputs` are rows of its arguments, in order."""
    batch = torch.export.Dim("batch", min=1)
    examples = {name: rows[:_EXAMPLE_ROWS] for name, rows in inputs.items()}
    write_module(wrapper, examples, {name: {0: batch} for name in examples}, OUTPUT_NAMES[graph], path)
