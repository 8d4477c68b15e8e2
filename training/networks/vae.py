"""A convolutional variational autoencoder for pictures whose side is a multiple of four.

It owns the layers: `Encoder` to mean and log-variance, `Decoder` to the location and log-scale of every pixel's
logistic distribution. It knows neither likelihoods nor data sets. Source: Kingma & Welling 2014, arXiv 1312.6114; the
condition on a label: Sohn et al. 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Bounds of the outputs that are exponentiated, so that no picture, however odd, makes them overflow.
# e^-6 to e^3 as deviations; a trained network stays well inside.
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -12.0, 6.0
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeShape:
    """The sizes of a network; `num_labels` is 0 for one that is not conditioned on a label."""

    side: int
    channels: int
    latent: int
    width: int
    num_labels: int = 0

    @property
    def smallest_side(self) -> int:
        """The side at the lowest resolution."""
        return self.side // (1 << num_halvings(self.side))


def num_halvings(side: int) -> int:
    """How often a picture is halved: twice up to 40 pixels, and once more for each doubling, so that 5 to 10 are left.

    The layer that reads the latent off, and the one that draws from it, grow with the square of what is left.
    """
    return 2 + max(math.ceil(math.log2(side / 40)), 0)


class ConvNorm(nn.Sequential):
    """A 3x3 convolution, batch normalisation and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(
            # Strided convolutions halve the sides, where pooling would forget at which of four pixels something was.
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Keep [B,C,H,W] as it is in shape (He et al. 2015, arXiv 1512.03385)."""
        return functional.silu(features + self.norm(self.second(self.first(features))))


class Encoder(nn.Module):
    """Pictures [B,C,H,W] in -1..1 to the mean and log-variance [B,Z] of the latent."""

    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        # Twice as many channels at each half of the side, as in classifiers; the last features keep their places.
        width = shape.width
        self.features = nn.Sequential(
            ConvNorm(shape.channels, width),  # [B,C,S,S] -> [B,width,S,S], where S is the side
            ConvNorm(width, 2 * width, stride=2),  # [B,2*width,S/2,S/2]
            Residual(2 * width),
            ConvNorm(2 * width, 4 * width, stride=2),  # [B,4*width,S/4,S/4]
            Residual(4 * width),
            # Of larger pictures, as many halves more as leave few places.
            *(
                layer
                for _ in range(num_halvings(shape.side) - 2)
                for layer in (ConvNorm(4 * width, 4 * width, stride=2), Residual(4 * width))
            ),
        )
        # The label joins at the end of the encoder and at the start of the decoder, as a row [K] of zeros and a one.
        # What it says need not be said by the latent (Sohn et al. 2015).
        self.head = nn.Linear(4 * width * shape.smallest_side**2 + shape.num_labels, 2 * shape.latent)

    def forward(self, pictures: Tensor, one_hot: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode; `one_hot` [B,K] is None for an unconditional network."""
        features = self.features(pictures).flatten(
            1
        )  # [B,4*width*(S/4)^2]: unlike a class, a picture needs to know where
        if one_hot is not None:
            features = torch.cat([features, one_hot], dim=1)
        # The posterior q(z|x) = N(mean, diag(variance)) (Kingma & Welling 2014, equation 9). The logarithm may be any
        # number, where a variance must be positive. [B,2Z] -> [B,Z] each.
        mean, log_variance = self.head(features).chunk(2, dim=1)
        # The bounds are in the graph, too: the service meets stranger pictures than training does.
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)


class Upsample(nn.Module):
    """Double both sides by repetition, which exports to a plain Resize and leaves no checkerboard."""

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,C,H,W] into [B,C,2H,2W]."""
        # Each pixel becomes four equal ones; the convolution that follows smooths the steps.
        return functional.interpolate(features, scale_factor=2.0, mode="nearest")


class Decoder(nn.Module):
    """Latents [B,Z] to the location and the log-scale [B,C,H,W] of every pixel, in units where pixels are -1..1."""

    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        width = shape.width
        self.shape = shape
        # [B,Z] or, with a label, [B,Z+K] -> [B,4*width*(S/4)^2].
        self.stem = nn.Linear(shape.latent + shape.num_labels, 4 * width * shape.smallest_side**2)
        self.features = nn.Sequential(
            *(
                layer
                for _ in range(num_halvings(shape.side) - 2)
                for layer in (Residual(4 * width), ConvNorm(4 * width, 4 * width), Upsample())
            ),
            Residual(4 * width),  # [B,4*width,S/4,S/4]
            ConvNorm(4 * width, 2 * width),
            Upsample(),  # [B,2*width,S/2,S/2]
            Residual(2 * width),
            ConvNorm(2 * width, width),
            Upsample(),  # [B,width,S,S]
            Residual(width),
        )
        # Two planes a colour channel: location and logarithm of the scale.
        self.head = nn.Conv2d(width, 2 * shape.channels, 3, padding=1)

    def forward(self, latents: Tensor, one_hot: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode; `one_hot` [B,K] is None for an unconditional network."""
        if one_hot is not None:
            latents = torch.cat([latents, one_hot], dim=1)
        side = self.shape.smallest_side
        features = self.stem(latents).unflatten(1, (-1, side, side))  # [B,Z] -> [B,4*width,S/4,S/4]
        # A distribution for every pixel, not a colour: its scale says where the decoder is unsure, which the likelihood
        # rewards. With a fixed scale, how much the distortion counts against the rate would be set by hand.
        location, log_scale = self.head(self.features(features)).chunk(2, dim=1)
        return location, log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)


class Vae(nn.Module):
    """Encoder and decoder of one shape."""

    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)

    def one_hot(self, labels: Tensor) -> Tensor | None:
        """The labels [B] as the network takes them: None when it is not conditioned."""
        return functional.one_hot(labels, self.shape.num_labels).float() if self.shape.num_labels else None

    def forward(self, pictures: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode, draw a latent with `noise` [B,Z], decode: mean, log-variance, location, log-scale."""
        one_hot = self.one_hot(labels)
        mean, log_variance = self.encoder(pictures, one_hot)
        # Reparametrised: z = mean + deviation * noise (Kingma & Welling 2014, section 2.4). exp(log_variance / 2) is
        # the deviation.
        location, log_scale = self.decoder(mean + noise * (0.5 * log_variance).exp(), one_hot)
        return mean, log_variance, location, log_scale
