"""Style transfer by optimisation: the pixels of one picture are moved until its loss is small.

Gatys et al. 2016, on the same loss as the network's training, which makes it the network's yardstick. It knows neither
files nor scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from training.style.loss import Loss, PerceptualLoss

OptimizerName = Literal["adam", "lbfgs"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
# In pixels of 0 to 255 for Adam; a part of the quasi-Newton step for L-BFGS.
DEFAULT_RATES: dict[OptimizerName, float] = {"adam": 5.0, "lbfgs": 1.0}
_HISTORY = 20


@dataclass(frozen=True, slots=True)
class Iterate:
    """The picture [1,3,H,W] after `iteration` steps, and its loss."""

    iteration: int
    loss: Loss
    picture: Tensor


def start_picture(photograph: Tensor, start: Literal["content", "noise"], seed: int) -> Tensor:
    """Where an optimisation of photograph [1,3,H,W] begins: at the photograph, or at noise around grey."""
    if start == "content":
        return photograph.clone()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(photograph.shape, generator=generator).mul(32).add(127.5).clamp(0, 255).to(photograph.device)


def iterate(
    loss: PerceptualLoss,
    photograph: Tensor,
    style: int,
    begin: Tensor,
    *,
    optimizer: OptimizerName,
    rate: float,
    num_steps: int,
) -> Iterator[Iterate]:
    """Yield the pictures after 0 to `num_steps` steps, every step one evaluation of the loss and its gradient.

    Adam's pictures stay within 0 to 255. L-BFGS takes no line search and is not bounded, since a bound would break its
    picture of the curvature; its pictures are bounded only where they are shown.
    """
    # L-BFGS reads gradients as one row of numbers, so pixels must lie in order.
    picture = begin.clone(memory_format=torch.contiguous_format).requires_grad_(True)
    styles = torch.tensor([style], device=photograph.device)
    wanted = loss.content_of(photograph)
    minimizer = make_minimizer(optimizer, picture, rate)
    latest: list[Loss] = []

    def evaluate() -> float:
        minimizer.zero_grad(set_to_none=True)
        latest[:] = [loss.against(picture, wanted, styles)]
        # Adam does not care for the scale; L-BFGS discards steps whose gradients are tiny as such.
        objective = latest[0].total.sum() * picture.numel()
        objective.backward()  # type: ignore[no-untyped-call]
        return float(objective.detach())

    for iteration in range(num_steps):
        before = picture.detach().clone()
        minimizer.step(evaluate)
        yield Iterate(iteration, _detached(latest[0]), before)
        if optimizer == "adam":
            with torch.no_grad():
                picture.clamp_(0, 255)
    with torch.no_grad():
        yield Iterate(num_steps, loss.against(picture, wanted, styles), picture.detach().clone())


def make_minimizer(name: OptimizerName, picture: Tensor, rate: float) -> torch.optim.Optimizer:
    """Make the optimiser of one picture; every step of it evaluates the loss once."""
    if name == "adam":
        return torch.optim.Adam([picture], lr=rate)
    return torch.optim.LBFGS(
        [picture], lr=rate, max_iter=1, history_size=_HISTORY, tolerance_grad=0.0, tolerance_change=0.0
    )


def _detached(loss: Loss) -> Loss:
    return Loss(loss.content.detach(), loss.style.detach(), loss.total.detach())
