"""The stylizer: a feed-forward network that paints photographs, with one row of scale and shift for each style.

Conditional instance normalisation after Dumoulin et al. 2017 (section 2.2), layers after Johnson et al. 2016 at half
the width. It knows neither losses nor data. All rows of a style lie side by side in one table, so a style is one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
# Photographs are halved twice, so their sides must be multiples of this.
STRIDE = 4

# (features [B,C,H,W], scale [B,C], shift [B,C]) -> features: each layer's normalisation, called in their order.
Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StylizerShape:
    """The sizes of a stylizer; widths are multiples of 16, the block in which CPUs compute convolutions."""

    num_styles: int
    widths: tuple[int, int, int] = (16, 32, 48)
    num_blocks: int = 5


class Convolution(nn.Module):
    """A convolution between mirrored borders: zeros would paint a frame."""

    def __init__(self, channels_in: int, channels_out: int, size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.border = size // 2
        # A normalisation takes the mean away, and a bias with it.
        self.convolution = nn.Conv2d(channels_in, channels_out, size, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C',H/stride,W/stride]."""
        # [B,C,H,W] -> [B,C,H+2*border,W+2*border] -> [B,C',H/stride,W/stride]
        convolved: Tensor = self.convolution(functional.pad(x, (self.border,) * 4, mode="reflect"))
        return convolved


class UpConvolution(Convolution):
    """Doubles both sides, then convolves."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C',2H,2W]."""
        # Nearest neighbours and then a convolution: transposed convolutions leave checkerboards (Odena 2016).
        return super().forward(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stylizer(nn.Module):
    """Paints RGB photographs in the manner of the styles, weighed by `style_weights`."""

    def __init__(self, shape: StylizerShape) -> None:
        super().__init__()
        self.shape = shape
        full, half, quarter = shape.widths
        # Most of the work happens at a quarter of the resolution: a sixteenth of the pixels, and each sees four times
        # as far (Johnson et al. 2016, section 3.1; half their width or less, and 5 x 5 where they have 9 x 9).
        self.down = nn.ModuleList(
            [
                Convolution(3, full, 5),
                Convolution(full, half, 3, stride=2),
                Convolution(half, quarter, 3, stride=2),
            ]
        )
        self.blocks = nn.ModuleList([Convolution(quarter, quarter, 3) for _ in range(2 * shape.num_blocks)])
        # The mirror of `down`: sizes are doubled where they were halved.
        self.up = nn.ModuleList([UpConvolution(quarter, half, 3), UpConvolution(half, full, 3)])
        self.to_pixels = Convolution(full, 3, 3)
        # One number a channel of every normalisation, N in all, side by side: [S,N]. These few hundred numbers are all
        # that tells one style from another (Dumoulin et al. 2017, section 2.2).
        self.norm_widths = (full, half, quarter, *(quarter,) * len(self.blocks), half, full, 3)
        # Ones and zeros: at first, every style is plain normalisation.
        self.scale = nn.Parameter(torch.ones(shape.num_styles, sum(self.norm_widths)))
        self.shift = nn.Parameter(torch.zeros(shape.num_styles, sum(self.norm_widths)))

    def forward(self, photographs: Tensor, style_weights: Tensor, normalize: Normalize | None = None) -> Tensor:
        """Paint photographs [B,3,H,W] of 0 to 255, H and W multiples of 4, by weights [B,S]; returns the same shape."""
        normalize = normalize or instance_norm
        # 16 + 32 + 48 + 10 x 48 + 32 + 16 + 3 = 627 numbers at the usual sizes.
        widths = list(self.norm_widths)
        # [B,S] @ [S,N] -> [B,N]: a blend of styles is a blend of their scales and shifts, split by layer.
        scales = iter(torch.split(style_weights @ self.scale, widths, 1))
        shifts = iter(torch.split(style_weights @ self.shift, widths, 1))

        # Layers take their share of the tables in the order in which they are called.
        def norm(features: Tensor) -> Tensor:
            return normalize(features, next(scales), next(shifts))

        x = photographs / 127.5 - 1  # 0..255 -> -1..1
        for layer in self.down:  # [B,3,H,W] -> [B,16,H,W] -> [B,32,H/2,W/2] -> [B,48,H/4,W/4] at the usual widths
            x = norm(layer(x)).relu()
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            # Residual: what the photograph shows passes through, and the block adds strokes to it.
            x = x + norm(second(norm(first(x)).relu()))
        for layer in self.up:
            x = norm(layer(x)).relu()
        # A style says the mean and the contrast of each colour, too: its palette.
        return 255 * torch.sigmoid(norm(self.to_pixels(x)).float())


def instance_norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise every channel of every picture by its own mean and deviation, then scale and shift."""
    # A picture's own contrast and colours are taken away and the style's put in their place; normalising by the batch
    # would mix those of its rows (Ulyanov et al. 2016, arXiv 1607.08022). [B,C,1,1] each, in float32.
    deviation, mean = torch.std_mean(features.float(), (2, 3), correction=0, keepdim=True)
    # One product and one sum a value: (x - mean) / deviation * scale + shift, with the constants of a channel put
    # together first.
    factor = scale[:, :, None, None] / (deviation.square() + EPSILON).sqrt()
    return (features * factor + (shift[:, :, None, None] - mean * factor)).to(features.dtype)


def with_style(network: Stylizer) -> Stylizer:
    """Make a network of one style more, whose row begins as the mean of the others; the rest is copied."""
    shape = StylizerShape(
        num_styles=network.shape.num_styles + 1, widths=network.shape.widths, num_blocks=network.shape.num_blocks
    )
    # The kernels of a network of many styles know how to paint in general: a style more is one row of each table, and
    # the other rows, and with them the other styles, stay as they are to the bit (Dumoulin et al. 2017).
    larger = Stylizer(shape)
    # The mean of the styles is a better start than none: it paints.
    state = network.state_dict()
    for name in ("scale", "shift"):
        state[name] = torch.cat([state[name], state[name].mean(0, keepdim=True)])
    larger.load_state_dict(state)
    return larger


@torch.no_grad()
def paint(network: Stylizer, photographs: Tensor, style: int) -> Tensor:
    """Paint photographs [B,3,H,W] in one style, in float32, on the network's own device."""
    device = network.scale.device
    weights = torch.zeros(len(photographs), network.shape.num_styles, device=device)
    # One style, not a blend: a row [S] of zeros and a one.
    weights[:, style] = 1
    painted: Tensor = network(photographs.to(device), weights)
    return painted.float().cpu()
