"""The three graphs of a stylizer, as modules that own everything between bytes and bytes.

`model` paints whole pictures; `statistics` and `tile` paint a picture too large for that in parts that share what
their normalisations know of the whole (URST: Chen et al. 2022). It knows neither files nor ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.export import write_module
from training.networks.stylizer import EPSILON, STRIDE, Convolution, Stylizer

MODEL, STATISTICS, TILE = "model", "statistics", "tile"
OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    MODEL: ("painting",),
    STATISTICS: ("mean", "deviation"),
    TILE: ("painting",),
}


class WholePainter(nn.Module):
    """Paints image uint8 [B,H,W,3] by weights [B,S]; returns uint8 [B,H,W,3]."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor) -> Tensor:
        """Paint whole pictures."""
        return to_bytes(self.network(to_floats(image), style_weights, folded_norm))


class StatisticsReader(nn.Module):
    """Reads the mean and deviation [B,N] of every normalisation of whole pictures, side by side in their order."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Paint, and return what the normalisations saw."""
        means: list[Tensor] = []
        deviations: list[Tensor] = []

        def norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            # The exporter calls what `Tensor.mean` gives "mean", too, which is the name of an output.
            variance, mean = torch.var_mean(features, (2, 3), correction=0)
            deviation = (variance + EPSILON).sqrt()
            means.append(mean)
            deviations.append(deviation)
            return rescaled(features, scale, shift, mean, deviation)

        self.network(to_floats(image), style_weights, norm)
        return torch.cat(means, 1), torch.cat(deviations, 1)


class TilePainter(nn.Module):
    """Paints parts of pictures with the statistics [B,N] of the whole."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Paint each row with its own statistics."""
        widths = list(self.network.norm_widths)
        means, deviations = iter(torch.split(mean, widths, 1)), iter(torch.split(deviation, widths, 1))

        def norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return rescaled(features, scale, shift, next(means), next(deviations))

        return to_bytes(self.network(to_floats(image), style_weights, norm))


WRAPPERS: dict[str, Callable[[Stylizer], nn.Module]] = {
    MODEL: WholePainter,
    STATISTICS: StatisticsReader,
    TILE: TilePainter,
}


def to_floats(image: Tensor) -> Tensor:
    """Turn uint8 [B,H,W,3] into the network's [B,3,H,W] of 0 to 255; bytes are cheaper to transpose than floats."""
    return image.permute(0, 3, 1, 2).float()


def to_bytes(painting: Tensor) -> Tensor:
    """Round paintings [B,3,H,W] of 0 to 255 to uint8 [B,H,W,3]."""
    return painting.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def folded_norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise as one ONNX operator, whose scale and shift are those of the style of each row.

    The operator takes one scale a channel, not one a row: the rows' channels are laid side by side in one row.
    """
    num_rows, num_channels, height, width = features.shape
    flat = features.reshape(1, num_rows * num_channels, height, width)
    normalized = functional.instance_norm(flat, weight=scale.reshape(-1), bias=shift.reshape(-1), eps=EPSILON)
    return normalized.reshape(num_rows, num_channels, height, width)


def rescaled(features: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Normalise features [B,C,H,W] by statistics [B,C], then scale and shift: one product and one sum a value."""
    factor = scale / deviation
    offset = shift - mean * factor
    return features * factor[:, :, None, None] + offset[:, :, None, None]


def write_style_graph(network: Stylizer, graph: str, path: Path) -> None:
    """Write one of the three graphs, of any batch size and any height and width that are multiples of the stride."""
    batch = torch.export.Dim("batch", min=1)
    height, width = (STRIDE * torch.export.Dim(f"quarter_{side}", min=2) for side in ("height", "width"))
    # No two sizes are alike, or the exporter would take them for one.
    num_norms = sum(network.norm_widths)
    examples = {
        "image": torch.zeros(2, 32, 48, 3, dtype=torch.uint8),
        "style_weights": torch.eye(network.shape.num_styles)[:1].repeat(2, 1),
    }
    axes = {"image": {0: batch, 1: height, 2: width}, "style_weights": {0: batch}}
    if graph == TILE:
        for name in OUTPUT_NAMES[STATISTICS]:
            examples[name] = torch.ones(2, num_norms)
            axes[name] = {0: batch}
    write_module(WRAPPERS[graph](network).eval(), examples, axes, OUTPUT_NAMES[graph], path)


def halo_pixels(network: Stylizer) -> int:
    """How far a painted pixel sees, rounded up to the stride; a part of a picture that far from a cut is exact.

    Follows the layers from the output to the input for each place a pixel can have within a stride.
    """
    radius = 0
    for place in range(STRIDE):
        first = last = place
        for layer in reversed(_layers(network)):
            if layer is None:
                first, last = first // 2, last // 2
                continue
            stride = layer.convolution.stride[0]
            first, last = first * stride - layer.border, last * stride + layer.border
        radius = max(radius, place - first, last - place)
    return -(-radius // STRIDE) * STRIDE


def _layers(network: Stylizer) -> list[Convolution | None]:
    """The convolutions in their order; None is a doubling of the size."""
    layers: list[Convolution | None] = []
    for module in (*network.down, *network.blocks):
        layers.append(_convolution(module))
    for module in network.up:
        layers += [None, _convolution(module)]
    return [*layers, network.to_pixels]


def _convolution(module: nn.Module) -> Convolution:
    assert isinstance(module, Convolution)
    return module
