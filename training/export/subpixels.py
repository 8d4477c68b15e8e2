"""Convolutions in a cheaper form that computes the same: several pixels of the output at once, at a lower resolution.

Shi et al. 2016, arXiv 1609.05158 (section 3.2): what is doubled by repetition holds each value four times, so a kernel
of 3 x 3 over it sees only 2 x 2 different ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DoublingConvolution(nn.Module):
    """Doubles both sides by repetition and convolves with a 3 x 3 kernel: 4 products a value instead of 9.

    `padding` is that of the low resolution: "replicate" where the doubled picture is mirrored, "constant" for zeros.
    """

    def __init__(self, convolution: nn.Conv2d, padding: str) -> None:
        super().__init__()
        self.padding = padding
        # [C',C,3,3] -> [C',C,2,3] for each of two rows -> [C',C,2,2] for each of four places in a pixel.
        kernels = [part for rows in _halves(convolution.weight.detach(), 2) for part in _halves(rows, 3)]
        self.convolution = _together(kernels, convolution.bias, stride=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,C,H,W] into [B,C',2H,2W]."""
        # The kernel lies between pixels: of H + 1 places, the first gives a row above the picture, the last one below.
        spread = spread_pixels(self.convolution(functional.pad(features, (1, 1, 1, 1), mode=self.padding)))
        return spread[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class PairedConvolution(nn.Module):
    """Convolves with a 3 x 3 kernel for 2 x 2 pixels at once: one of few channels leaves most of a vector idle.

    `padding` is "reflect" for mirrored borders, "constant" for zeros.
    """

    def __init__(self, convolution: nn.Conv2d, padding: str) -> None:
        super().__init__()
        self.padding = padding
        weight = convolution.weight.detach()
        # The same kernel at each of the four places of a 4 x 4 one.
        kernels = [functional.pad(weight, (right, 1 - right, low, 1 - low)) for low in (0, 1) for right in (0, 1)]
        self.convolution = _together(kernels, convolution.bias, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,C,H,W], H and W even, into [B,C',H,W]."""
        padded = functional.pad(features, (1, 1, 1, 1), mode=self.padding)
        return spread_pixels(self.convolution(padded)).permute(0, 3, 1, 2)


def spread_pixels(features: Tensor) -> Tensor:
    """Spread the 2 x 2 pixels that lie side by side in the channels [B,4*C,H,W] out to [B,2H,2W,C]."""
    num_rows, channels, height, width = features.shape
    # Channels last: whole pixels move, not single numbers. [B,H,W,2,2*C] -> [B,H,2,W,2*C].
    pairs = features.permute(0, 2, 3, 1).reshape(num_rows, height, width, 2, channels // 2).permute(0, 1, 3, 2, 4)
    return pairs.reshape(num_rows, 2 * height, 2 * width, channels // 4)


def undoubled(together: Tensor) -> Tensor:
    """The kernel [C',C,3,3] that a `DoublingConvolution` was made of, up to rounding, from its weight [4*C',C,2,2]."""

    def joined(before: Tensor, after: Tensor, axis: int) -> Tensor:
        # first + middle, last; and first, middle + last: see `_halves`.
        last, (first, rest) = before.select(axis, 1), after.unbind(axis)
        return torch.stack([first, rest - last, last], axis)

    upper_left, upper_right, lower_left, lower_right = together.chunk(4)
    return joined(joined(upper_left, upper_right, 3), joined(lower_left, lower_right, 3), 2)


def unpaired(together: Tensor) -> Tensor:
    """The kernel [C',C,3,3] that a `PairedConvolution` was made of, from its weight [4*C',C,4,4]."""
    return together.chunk(4)[0][:, :, :3, :3]


def _halves(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """What a kernel of three sees of repeated values: those of a second place of a pixel, and of the first of the next.

    They are in this order as both lie between two pixels.
    """
    first, middle, last = kernel.unbind(axis)
    return torch.stack([first + middle, last], axis), torch.stack([first, middle + last], axis)


def _together(kernels: list[Tensor], bias: Tensor | None, *, stride: int) -> nn.Conv2d:
    weight = torch.cat(kernels)
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, bias=bias is not None)
    convolution.weight = nn.Parameter(weight)
    if bias is not None:
        convolution.bias = nn.Parameter(bias.detach().repeat(len(kernels)))
    return convolution
