"""A class-conditional generator and its projection discriminator, for square pictures.

It owns the layers and knows neither losses nor data sets. Sources: conditional normalisation and projection, Miyato &
Koyama 2018, arXiv 1802.05637; spectral normalisation, arXiv 1802.05957; resizing before convolving, Odena 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.vae import num_halvings


@dataclass(frozen=True, slots=True, kw_only=True)
class GanShape:
    """The sizes of a pair of networks; widths are channels at full resolution."""

    side: int
    channels: int
    latent: int
    num_labels: int
    generator_width: int
    discriminator_width: int

    @property
    def smallest_side(self) -> int:
        """The side at the lowest resolution."""
        return self.side // (1 << self.num_halvings)

    @property
    def num_halvings(self) -> int:
        """How often the side is halved from a picture to the lowest resolution, as in a VAE."""
        return num_halvings(self.side)


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift belong to the label."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        # Each label has a row of scales and shifts, [K,C]: the label reaches every layer at the cost of two numbers a
        # channel (de Vries et al. 2017, arXiv 1707.00683; in GANs: Miyato & Koyama 2018). One and zero at first, so
        # that all labels begin alike.
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.scale = nn.Embedding(num_labels, width)
        self.shift = nn.Embedding(num_labels, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Normalise [B,C,H,W] by the labels [B]."""
        normalized: Tensor = self.norm(features)
        # In the features' own type: float32 here would double what every later layer of the block moves.
        scale, shift = self.scale(labels).to(normalized.dtype), self.shift(labels).to(normalized.dtype)
        return torch.addcmul(shift[:, :, None, None], normalized, scale[:, :, None, None])


class UpConvolution(nn.Conv2d):
    """Doubles both sides by repetition, then convolves: transposed convolutions leave checkerboards (Odena 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,C,H,W] into [B,C',2H,2W]."""
        return super().forward(functional.interpolate(features, scale_factor=2.0, mode="nearest"))


class UpBlock(nn.Module):
    """A residual block that doubles both sides."""

    def __init__(self, in_channels: int, out_channels: int, num_labels: int) -> None:
        super().__init__()
        # Channels fall where the sides double: [B,C,H,W] -> [B,C',2H,2W].
        self.first_norm = ConditionalNorm(in_channels, num_labels)
        self.first = UpConvolution(in_channels, out_channels)
        self.second_norm = ConditionalNorm(out_channels, num_labels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Turn [B,C,H,W] into [B,C',2H,2W]."""
        # Normalised and rectified before each convolution, so that the shortcut stays a plain sum (He et al. 2016,
        # arXiv 1603.05027, figure 4e).
        inner = self.first(functional.relu(self.first_norm(features, labels)))  # [B,C,H,W] -> [B,C',2H,2W]
        inner = self.second(functional.relu(self.second_norm(inner, labels)))
        # A 1x1 convolution changes the number of channels; before the doubling, it has a quarter of the pixels to do.
        shortcut = functional.interpolate(self.shortcut(features), scale_factor=2.0, mode="nearest")
        doubled: Tensor = inner + shortcut
        return doubled


class Generator(nn.Module):
    """Latents [B,Z] and labels [B] to pictures [B,C,H,W] in -1..1."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        width = shape.generator_width
        self.shape = shape
        self.stem = nn.Linear(shape.latent, 4 * width * shape.smallest_side**2)
        # Of larger pictures, as many doublings more as begin from few places.
        self.deep = nn.ModuleList(
            UpBlock(4 * width, 4 * width, shape.num_labels) for _ in range(shape.num_halvings - 2)
        )
        self.low = UpBlock(4 * width, 2 * width, shape.num_labels)
        self.high = UpBlock(2 * width, width, shape.num_labels)
        # The last normalisation knows no label: by now the picture is drawn, and only its contrast is left to set.
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, shape.channels, 3, padding=1)
        _initialize(self)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Draw one picture for each latent."""
        side = self.shape.smallest_side
        features = self.stem(latents).unflatten(1, (-1, side, side))  # [B,Z] -> [B,4*width,S/4,S/4]
        for block in self.deep:
            features = block(features, labels)
        features = self.high(self.low(features, labels), labels)  # [B,2*width,S/2,S/2] -> [B,width,S,S]
        # The hyperbolic tangent bounds pixels to -1..1, as the real ones are: else their range would give drawn ones
        # away.
        return functional.tanh(self.head(functional.relu(self.norm(features))))


class Discriminator(nn.Module):
    """Pictures [B,C,H,W] in -1..1 and labels [B] to realness [B]; every layer has spectral norm one."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        width = shape.discriminator_width
        # In, out, kernel, stride. A kernel of 4 with stride 2 covers every pixel equally often, which one of 3 does
        # not: uneven gradients would show in the pictures as a grid.
        sizes = (
            (shape.channels, width, 3, 1),  # [B,C,S,S] -> [B,width,S,S]
            (width, 2 * width, 4, 2),  # [B,2*width,S/2,S/2]
            (2 * width, 2 * width, 3, 1),
            (2 * width, 4 * width, 4, 2),  # [B,4*width,S/4,S/4]
            (4 * width, 4 * width, 3, 1),
            *(((4 * width, 4 * width, 4, 2), (4 * width, 4 * width, 3, 1)) * (shape.num_halvings - 2)),
        )
        self.layers = nn.ModuleList(
            nn.Conv2d(inner, outer, kernel, stride=stride, padding=1) for inner, outer, kernel, stride in sizes
        )
        # Two judgements from the same features: is it a picture, and is it one of its label?
        self.head = nn.Linear(4 * width, 1)
        self.projection = nn.Embedding(shape.num_labels, 4 * width)
        _initialize(self)
        # Each matrix is divided by its largest singular value, which a power iteration follows along: no layer
        # stretches a difference, so the whole is Lipschitz, and its gradient, which is all that the generator has to go
        # by, never explodes (Miyato et al. 2018, arXiv 1802.05957, section 2.1).
        for layer in (*self.layers, self.head, self.projection):
            spectral_norm(layer)

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Judge pictures, each as one of its label."""
        features = pictures
        for layer in self.layers:
            # Leaky: a rectifier that is off would pass the generator no gradient at all.
            features = functional.leaky_relu(layer(features), 0.1)
        pooled = features.float().sum((2, 3))  # [B,4*width,S/4,S/4] -> [B,4*width]
        # Real in general, plus real as one of its label: log p(y|x) is linear in the features if classes are told by a
        # softmax over them, which gives this product (Miyato & Koyama 2018, section 3).
        # [B,4*width] -> [B] + ([K,4*width] row of the label · features) [B]; summed, not averaged, over positions.
        realness: Tensor = self.head(pooled)[:, 0] + (self.projection(labels) * pooled).sum(1)
        return realness


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Orthogonal: signals and gradients keep their length through many layers (Saxe et al. 2013, arXiv
            # 1312.6120).
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
