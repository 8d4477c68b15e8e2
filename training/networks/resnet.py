"""A family of small residual CNNs with a global-average-pooling head, for images of 28 to 224 pixels.

It owns the layers and the exported wrapper (uint8 in; probabilities, embedding and class activation map out). It knows
neither data sets nor optimisers. Class activation maps: Zhou et al. 2016, arXiv 1512.04150; the pooled stages follow
Page 2018 (DAWNBench ResNet-9) and Jordan 2024, arXiv 2404.00498, with residual blocks only after the pooling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# The signature of the exported graph; the service knows it from the manifest.
GRAPH = "model"
INPUT_NAME = "image"
OUTPUT_NAMES = ("probabilities", "embedding", "activation_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One resolution of the network: a convolution to `width`, an optional 2x2 max-pool, then residual blocks."""

    width: int
    blocks: int
    pool: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The widths and depths of one member of the family; `stem` is the width at full resolution."""

    stem: int
    stages: tuple[Stage, ...]


# What torch adds to a variance before it divides by its root.
NORM_EPSILON = 1e-5
# The side that the stages are made for; larger images are halved before them.
_USUAL_SIDE = 40

# Sizes for 28 x 28 and 32 x 32 pixels; the smallest is for tests. Widths grow where the resolution
# falls: halving both sides leaves a quarter of the positions, which pays for twice the channels.
ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(stem=8, stages=(Stage(width=8, blocks=1), Stage(width=16, blocks=1))),
    "digit": Architecture(stem=16, stages=(Stage(width=64, blocks=1), Stage(width=96, blocks=1))),
    "garment": Architecture(
        stem=32, stages=(Stage(width=64, blocks=1), Stage(width=128, blocks=1), Stage(width=128, blocks=1, pool=False))
    ),
    "object": Architecture(
        stem=32, stages=(Stage(width=64, blocks=1), Stage(width=192, blocks=1), Stage(width=256, blocks=1))
    ),
}


class ConvNormReLU(nn.Sequential):
    """A 3x3 convolution, an optional 2x2 max-pool, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = False, stride: int = 1) -> None:
        # No bias: the normalisation that follows subtracts the mean, and any bias with it.
        layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)]
        if pool:
            # Before the normalisation: a quarter of the pixels to normalise, and the same maximum up to a sign.
            layers.append(nn.MaxPool2d(2))
        # Ioffe & Szegedy 2015, arXiv 1502.03167: with features of one scale, a high learning rate does not diverge.
        super().__init__(*layers, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The second normalisation has no rectifier of its own: a block must be able to subtract.
        self.first = ConvNormReLU(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Keep [B,C,H,W] as it is in shape."""
        # He et al. 2015, arXiv 1512.03385, equation 1: the layers learn what to add to their input. Where they add
        # nothing, the input passes, and so does the gradient: depth costs nothing at the start of training.
        return functional.relu(features + self.norm(self.second(self.first(features))))


class ResNet(nn.Module):
    """The classifier in training form: float [B,C,H,W], already normalised, to logits [B,K]."""

    def __init__(
        self, architecture: Architecture, in_channels: int, num_classes: int, dropout: float = 0.0, *, halvings: int = 0
    ) -> None:
        """Make the network for images that are halved so often before the stages (see `num_halvings`)."""
        super().__init__()
        layers: list[nn.Module] = []
        width = architecture.stem
        # Strides, before any other layer: 128 pixels a side at full resolution cost 16 times as much as 32, and show
        # the same things. Each of these has a quarter of the places of the one before.
        for _ in range(halvings):
            layers.append(ConvNormReLU(in_channels, width, stride=2))
            in_channels = width
        layers.append(ConvNormReLU(in_channels, width))  # [B,C,H,W] -> [B,stem,H,W]
        for stage in architecture.stages:
            # [B,width,H,W] -> [B,stage.width,H/2,W/2]; the sides stay where the stage does not pool.
            layers.append(ConvNormReLU(width, stage.width, pool=stage.pool))
            layers.extend(ResidualBlock(stage.width) for _ in range(stage.blocks))
            width = stage.width
        self.features = nn.Sequential(*layers)
        # On the pooled features, [B,D]; dropping pixels of a feature map does little, for their neighbours say the
        # same.
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B,K] for [B,C,H,W]."""
        # The mean over positions, [B,C,H,W] -> [B,C]: what is in the image, not where. It has no weights to over-fit,
        # and takes images of any size (global average pooling: Lin et al. 2013, arXiv 1312.4400, section 3.2).
        pooled = self.features(images).mean((2, 3))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def num_halvings(side: int) -> int:
    """How often images of a side are halved before the stages: 0 up to 40 pixels, 1 up to 80, 2 up to 160, 3 beyond."""
    return max(math.ceil(math.log2(side / _USUAL_SIDE)), 0)


def halvings_of(weights: Mapping[str, Tensor], architecture: Architecture) -> int:
    """How often the network of these weights halves images before its stages: what is more than they have layers."""
    layers = {name.split(".")[1] for name in weights if name.startswith("features.")}
    return len(layers) - 1 - sum(1 + stage.blocks for stage in architecture.stages)


class ServedClassifier(nn.Module):
    """The exported form: uint8[B,H,W,C] to probabilities [B,K], embedding [B,D] and activation_map [B,K,h,w].

    The embedding is the pooled feature vector at unit length; the map is the evidence for each class before its bias.
    Logits are divided by `temperature` before the softmax (Guo et al. 2017, arXiv 1706.04599).
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, network: ResNet, mean: Sequence[float], std: Sequence[float], temperature: float = 1.0) -> None:
        super().__init__()
        # The trained network as it is: what is exported and what was trained cannot drift apart.
        self.network = network
        self.temperature = temperature
        # One multiplication and one subtraction: (pixels / 255 - mean) / std.
        self.register_buffer("gain", 1 / (255 * torch.tensor(std).view(1, -1, 1, 1)))
        self.register_buffer("offset", (torch.tensor(mean) / torch.tensor(std)).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the three outputs, in the order of `OUTPUT_NAMES`."""
        # The graph owns the preprocessing: a caller sends bytes, and cannot normalise them otherwise than training did.
        pixels = image.permute(0, 3, 1, 2).to(torch.float32)  # [B,H,W,C] -> [B,C,H,W]
        features = self.network.features(pixels * self.gain - self.offset)  # [B,D,h,w]
        pooled = features.mean((2, 3))  # [B,D]
        # Equation 9 of Guo et al.: it changes how sure the network is, never which class is the likeliest.
        probabilities = functional.softmax(self.network.head(pooled) / self.temperature, dim=1)
        # Of unit length, so that a dot product of two embeddings is the cosine between them.
        embedding = pooled / pooled.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        # Zhou et al., equation 2: the head is linear and so is the mean, so the head may be applied at every position
        # first. The mean of the map, with the bias, is the logit: [B,D,h,w] x [K,D] -> [B,K,h,w].
        activation_map = torch.einsum("bdhw,kd->bkhw", features, self.network.head.weight)
        return probabilities, embedding, activation_map
