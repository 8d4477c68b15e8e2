"""The losses that are more than a line: the perceptual loss of style transfer, and the two terms of a VAE's ELBO.

It knows neither data sets nor optimisers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.vgg import Vgg16

# Style transfer.

# Colours live in the first layers, whose terms are small by nature: equal weights would leave palettes to chance.
# One layer a resolution; their weights add up to one.
STYLE_LAYERS = {"conv1_2": 4 / 8, "conv2_2": 2 / 8, "conv3_3": 1 / 8, "conv4_3": 1 / 8}
# Keeps the loss of a photograph that is flat, or is the painting itself, a number.
# A photograph that is all of one colour has no variance to divide by.
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Loss:
    """The terms of a batch, a row each: content [B], style [B], and their weighted sum [B]."""

    content: Tensor
    # Kept apart from the total: the balance of styles follows the style term alone.
    style: Tensor
    total: Tensor


def gram(features: Tensor) -> Tensor:
    """The Gram matrix [B,C,C] of features [B,C,H,W]: how strongly each pair of channels fires together, by position.

    Summing over positions forgets where something is and keeps what goes with what: texture (Gatys et al. 2016,
    equation 3; Johnson et al. 2016, equation 3).
    """
    flat = features.flatten(2).float()  # [B,C,H*W]; the squares overflow float16 and round badly in bfloat16
    return flat @ flat.transpose(1, 2) / flat.shape[-1]


class PerceptualLoss(nn.Module):
    """How far a painting is from a photograph in content, and from a style in texture.

    Every term is relative: the style term is 1 for an untouched photograph and the content term 1 for a picture
    unrelated to it, whatever the style and layer, so that one weight between them suits all styles. `balance` [S]
    multiplies the style term of each style; 1 at first.
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
        """Take paintings [3,H,W] and photographs [B,3,H,W] to calibrate on, RGB, 0 to 255."""
        super().__init__()
        self.vgg = vgg
        # Deep enough to forgive strokes, shallow enough to keep outlines.
        self.content_layer = content_layer
        self.style_weight = style_weight
        self.variation_weight = variation_weight
        # Buffers, not parameters: they move to the device along with the module, and no optimiser sees them.
        self.register_buffer("balance", torch.ones(len(paintings)))
        with torch.no_grad():
            # One by one: paintings differ in size.
            targets = [vgg(painting[None]) for painting in paintings]
            # And photographs, too, for the memory that features of a whole batch would take.
            raw = [vgg(row[None]) for row in photographs]
            for layer in STYLE_LAYERS:
                target = torch.cat([gram(features[layer]) for features in targets])  # [S,C,C]
                # What an untouched photograph's term would be, [S] by style: the unit that terms are measured in.
                distances = [(gram(features[layer]) - target).square().sum((1, 2)) for features in raw]
                self.register_buffer(f"target_{layer}", target)
                self.register_buffer(f"scale_{layer}", torch.stack(distances).mean(0).clamp_min(_TINY))
            # Two unrelated features of one variance differ by twice that variance in the mean square.
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

    def against(self, pictures: Tensor, kept: Tensor, styles: Tensor) -> Loss:
        """Compare pictures [B,3,H,W] with content features to keep, and with styles [B], by index."""
        # One pass gives the content and all style layers. VGG16 has no trained parameters here; gradients pass through
        # it to the pixels.
        features = self.vgg(pictures)
        # Johnson et al. 2016, equation 2: a deep layer sees objects and their places, not colours and edges.
        content = (features[self.content_layer] - kept).float().square().mean((1, 2, 3)) / self.content_scale
        # From coarse to fine: the first layer sees colours and edges, the last motifs. [B] each.
        terms = [weight * self._style_term(layer, features[layer], styles) for layer, weight in STYLE_LAYERS.items()]
        style = torch.stack(terms).sum(0)  # [B]
        # [B]: a batch may hold a style a row, each with its own balance.
        total = content + self.style_weight * self.balance[styles] * style
        if self.variation_weight:
            total = total + self.variation_weight * total_variation(pictures)
        return Loss(content, style, total)

    def _style_term(self, layer: str, features: Tensor, styles: Tensor) -> Tensor:
        """Johnson et al. 2016, equation 4: the squared Frobenius norm of the Gram matrices' difference, [B]."""
        target, scale = self.get_buffer(f"target_{layer}"), self.get_buffer(f"scale_{layer}")
        return (gram(features) - target[styles]).square().sum((1, 2)) / scale[styles]


def total_variation(pictures: Tensor) -> Tensor:
    """The mean squared step between neighbouring pixels, of pictures of 0 to 255 taken as 0 to 1; a row each."""
    # [B,3,H,W] in 0..1, so that its weight does not depend on how pixels are counted.
    unit = pictures / 255
    # Differences to the right and to the next row; a picture of one colour has none.
    across = (unit[..., :, 1:] - unit[..., :, :-1]).square().mean((1, 2, 3))
    down = (unit[..., 1:, :] - unit[..., :-1, :]).square().mean((1, 2, 3))
    return across + down


# Variational autoencoders: -log p(x) <= distortion + rate, both in nats.

HALF_LEVEL = 1 / 255  # in units where the levels 0..255 are spread over -1..1


@dataclass(frozen=True, slots=True, kw_only=True)
class ElboTerms:
    """The parts of the negative ELBO of each picture, in nats: `distortion` [B], and `kl` [B,Z], the rate by number.

    The rate is what it costs to send the latent, the distortion what it costs to send the picture once the latent is
    known (Kingma & Welling 2014, arXiv 1312.6114, equation 3).
    """

    distortion: Tensor
    kl: Tensor


def elbo_terms(network: Callable[..., Any], levels: Tensor, labels: Tensor, noise: Tensor) -> ElboTerms:
    """Estimate distortion and rate of uint8 pictures [B,C,H,W] with one latent each, drawn by `noise` [B,Z]."""
    mean, log_variance, location, log_scale = network(to_signed(levels), labels, noise)
    # In float32 whatever the network computed in: a sum over a thousand pixels would lose its last digits in bfloat16.
    # [B,C,H,W] -> [B]: pixels are independent once the latent is known, so their logarithms add up.
    likelihood = logistic_log_likelihood(levels.float(), location.float(), log_scale.float())
    return ElboTerms(distortion=-likelihood, kl=gaussian_kl(mean.float(), log_variance.float()))


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, variance) || N(0, 1)) in nats for every number of the latent: [B,Z] to [B,Z].

    Kingma & Welling 2014, appendix B, with the sign turned: there it is -KL that is written out.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def logistic_log_likelihood(pixels: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log p(pixels) in nats, summed over all axes but the first: levels 0..255 [B,...] to [B]."""
    return pixel_log_likelihood(pixels, location, log_scale).flatten(1).sum(1)


def pixel_log_likelihood(pixels: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log p in nats of every pixel of levels 0..255, in the shape of the arguments.

    A pixel's probability is the mass of its logistic distribution between the level's edges, the outermost levels
    reaching to infinity (Salimans et al. 2017, arXiv 1701.05517, equation 2): a true code length. Written with
    operators that ONNX has, too, in forms that neither overflow nor cancel; s is the logistic sigmoid.
    """
    # exp(-log s) and not 1 / s: the network gives the logarithm, which may be any number.
    inverse_scale = torch.exp(-log_scale)
    # In units where a level is 2/255 wide, HALF_LEVEL is half of one.
    centred = to_signed(pixels) - location
    above = (centred + HALF_LEVEL) * inverse_scale
    below = (centred - HALF_LEVEL) * inverse_scale
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), of which the edges keep one term each.
    half_width = torch.tanh(HALF_LEVEL * inverse_scale)
    # The topmost level reaches to infinity, where s is one; the lowest from minus infinity, where it is zero.
    up_to = torch.where(pixels < 255, -functional.softplus(-above), 0.0)  # log s(above)
    beyond = torch.where(pixels > 0, -functional.softplus(below), 0.0)  # log s(-below)
    # 1 - exp(-w) = 2 t / (1 + t) with t = tanh(w / 2), where w = a - b = 2 * HALF_LEVEL / scale.
    inner = torch.where((pixels > 0) & (pixels < 255), torch.log(2 * half_width / (1 + half_width)), 0.0)
    return up_to + beyond + inner


def to_signed(pixels: Tensor) -> Tensor:
    """Map levels 0..255 to -1..1."""
    return pixels.float() * (2 / 255) - 1


def to_levels(signed: Tensor) -> Tensor:
    """Map -1..1 to whole levels 0..255 as uint8; what lies outside is clamped."""
    return ((signed + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
