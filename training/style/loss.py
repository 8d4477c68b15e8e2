"""The perceptual loss: how far a painting is from a photograph in content, and from a style in texture.

Gatys et al. 2016 (content features, Gram matrices) and Johnson et al. 2016 (layers). Every term is relative: the style
term is 1 for an untouched photograph and the content term 1 for a picture unrelated to it, whatever the style and
layer. It knows neither networks nor optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.vgg import Vgg16

# Colours live in the first layers, whose terms are small by nature: equal weights would leave palettes to chance.
STYLE_LAYERS = {"conv1_2": 4 / 8, "conv2_2": 2 / 8, "conv3_3": 1 / 8, "conv4_3": 1 / 8}
# Keeps the loss of a photograph that is flat, or is the painting itself, a number.
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Loss:
    """The terms of a batch, a row each: content [B], style [B], and their weighted sum [B]."""

    content: Tensor
    style: Tensor
    total: Tensor


def gram(features: Tensor) -> Tensor:
    """The Gram matrix [B,C,C] of features [B,C,H,W], by position."""
    flat = features.flatten(2).float()
    return flat @ flat.transpose(1, 2) / flat.shape[-1]


class PerceptualLoss(nn.Module):
    """The loss towards a list of paintings, calibrated on untouched photographs.

    `balance` [S] multiplies the style term of each style; 1 at first.
    """

    balance: Tensor
    content_scale: Tensor

    def __init__(
        self,
        vgg: Vgg16,
        paintings: Sequence[Tensor],
        photographs: Tensor,
        *,
        content_layer: str,
        style_weight: float,
        variation_weight: float = 0.0,
    ) -> None:
        """Take paintings [3,H,W] and photographs [B,3,H,W], RGB, 0 to 255."""
        super().__init__()
        self.vgg = vgg
        self.content_layer = content_layer
        self.style_weight = style_weight
        self.variation_weight = variation_weight
        self.register_buffer("balance", torch.ones(len(paintings)))
        with torch.no_grad():
            targets = [vgg(painting[None]) for painting in paintings]
            raw = [vgg(row[None]) for row in photographs]
            for layer in STYLE_LAYERS:
                target = torch.cat([gram(features[layer]) for features in targets])
                distances = [(gram(features[layer]) - target).square().sum((1, 2)) for features in raw]
                self.register_buffer(f"target_{layer}", target)
                self.register_buffer(f"scale_{layer}", torch.stack(distances).mean(0).clamp_min(_TINY))
            variances = [features[content_layer].var((2, 3)).mean() for features in raw]
            self.register_buffer("content_scale", (2 * torch.stack(variances).mean()).clamp_min(_TINY))

    def forward(self, pictures: Tensor, photographs: Tensor, styles: Tensor) -> Loss:
        """Compare pictures [B,3,H,W] with the photographs they show and with styles [B], by index."""
        return self.against(pictures, self.content_of(photographs), styles)

    @torch.no_grad()
    def content_of(self, photographs: Tensor) -> Tensor:
        """The features of photographs [B,3,H,W] that a painting should keep."""
        content: Tensor = self.vgg(photographs, self.content_layer)[self.content_layer]
        return content

    def against(self, pictures: Tensor, wanted: Tensor, styles: Tensor) -> Loss:
        """Compare pictures [B,3,H,W] with the content that is wanted, and with styles [B], by index."""
        features = self.vgg(pictures)
        content = (features[self.content_layer] - wanted).float().square().mean((1, 2, 3)) / self.content_scale
        terms = [weight * self._style_term(layer, features[layer], styles) for layer, weight in STYLE_LAYERS.items()]
        style = torch.stack(terms).sum(0)
        total = content + self.style_weight * self.balance[styles] * style
        if self.variation_weight:
            total = total + self.variation_weight * total_variation(pictures)
        return Loss(content, style, total)

    def _style_term(self, layer: str, features: Tensor, styles: Tensor) -> Tensor:
        target, scale = self.get_buffer(f"target_{layer}"), self.get_buffer(f"scale_{layer}")
        return (gram(features) - target[styles]).square().sum((1, 2)) / scale[styles]


def total_variation(pictures: Tensor) -> Tensor:
    """The mean squared step between neighbouring pixels, of pictures of 0 to 255 taken as 0 to 1; a row each."""
    unit = pictures / 255
    across = (unit[..., :, 1:] - unit[..., :, :-1]).square().mean((1, 2, 3))
    down = (unit[..., 1:, :] - unit[..., :-1, :]).square().mean((1, 2, 3))
    return across + down
