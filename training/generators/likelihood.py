"""The discretised logistic likelihood of pixels of 256 levels, and the KL divergence of a diagonal Gaussian.

It owns formulas in nats and knows no network. A pixel's probability is the mass of its logistic distribution between
the level's edges, the outermost levels reaching to infinity (Salimans et al. 2017, arXiv 1701.05517, section 2.1): a
true code length, with no floor of its own. KL: Kingma & Welling 2014, appendix B.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

HALF_LEVEL = 1 / 255  # in units where the levels 0..255 are spread over -1..1


def to_signed(pixels: Tensor) -> Tensor:
    """Map levels 0..255 to -1..1."""
    return pixels.float() * (2 / 255) - 1


def to_levels(signed: Tensor) -> Tensor:
    """Map -1..1 to whole levels 0..255 as uint8; what lies outside is clamped."""
    return ((signed + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def pixel_log_likelihood(pixels: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log p in nats of every pixel of levels 0..255, in the shape of the arguments.

    Written with operators that ONNX has, too, in forms that neither overflow nor cancel.
    """
    inverse_scale = torch.exp(-log_scale)
    centred = to_signed(pixels) - location
    above = (centred + HALF_LEVEL) * inverse_scale
    below = (centred - HALF_LEVEL) * inverse_scale
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), of which the edges keep one term each.
    half_width = torch.tanh(HALF_LEVEL * inverse_scale)
    up_to = torch.where(pixels < 255, -functional.softplus(-above), 0.0)
    beyond = torch.where(pixels > 0, -functional.softplus(below), 0.0)
    # 1 - exp(-w) = 2 t / (1 + t) with t = tanh(w / 2).
    inner = torch.where((pixels > 0) & (pixels < 255), torch.log(2 * half_width / (1 + half_width)), 0.0)
    return up_to + beyond + inner


def logistic_log_likelihood(pixels: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log p(pixels) in nats, summed over all axes but the first: levels 0..255 [B,...] to [B]."""
    return pixel_log_likelihood(pixels, location, log_scale).flatten(1).sum(1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, variance) || N(0, 1)) in nats for every number of the latent: [B,Z] to [B,Z]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
