"""Optimisers by name, learning-rate schedules with warm-up, and an exponential moving average of weights.

It owns how parameters are grouped. It knows neither data nor losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

# In the order in which they were found, each of which repairs something of the one before: SGD; with momentum (Polyak
# 1964; Nesterov 1983), which averages noisy directions; RMSprop (Hinton 2012), which divides each weight's step by the
# size of its gradients; Adam (Kingma & Ba 2015, arXiv 1412.6980), which does both; AdamW (Loshchilov & Hutter 2019,
# arXiv 1711.05101), which takes weight decay out of that division; Muon, for matrices.
OptimizerName = Literal["sgd", "momentum", "rmsprop", "adam", "adamw", "muon"]
ScheduleName = Literal["cosine", "linear", "step", "constant"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)


class Muon(torch.optim.Optimizer):
    """Replaces the momentum of a matrix by the nearest orthogonal one; a kernel counts as [out, in*h*w].

    Every direction in which the weights can move, the rare ones too, then moves equally far (Jordan 2024,
    kellerjordan.github.io/posts/muon). The same steps as `torch.optim.Muon`, which takes matrices alone, one after the
    other, and bfloat16 where that is emulated, too.
    """

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step; matrices of one shape are orthogonalised together. A closure gives the loss first, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            together: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    update = self._follow(matrix, group["momentum"])
                    together.setdefault(update.shape, []).append((matrix, update))
            for shape, pairs in together.items():
                directions = orthogonalized(torch.stack([update for _, update in pairs]))
                # A tall matrix has as many singular values as it has columns, for more rows: they may be longer.
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for (matrix, _), direction in zip(pairs, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(direction.reshape(matrix.shape), alpha=-rate)
        return loss

    def _follow(self, matrix: Tensor, momentum: float) -> Tensor:
        """Move the momentum of a matrix towards its gradient, and look ahead along it (Nesterov 1983)."""
        assert matrix.grad is not None
        # [C',C,h,w] -> [C',C*h*w]: row i is all that feeds output channel i.
        gradient = matrix.grad.reshape(len(matrix), -1)
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonalized(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Bring the singular values of matrices [N,R,C] near one, by the iteration of Newton and Schulz."""
    # A quintic polynomial, applied again and again, drives each singular value towards one without computing any; these
    # coefficients are steep at zero, and leave values from 0.7 to 1.2 (Jordan 2024).
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if is_tall else matrices
    # Its bounds are wide: bfloat16 will do where the device computes it.
    found = found.bfloat16() if arithmetic("auto", matrices.device) == "bf16" else found.clone()
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above one
    for _ in range(num_iterations):
        squares = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(squares, squares, squares, beta=b, alpha=c), found, beta=a)
    return (found.mT if is_tall else found).to(matrices.dtype)


def arithmetic(precision: str, device: torch.device) -> str:
    """What a precision means on a device: "auto" is bf16 where the device computes it, and fp32 elsewhere."""
    if precision != "auto":
        return precision
    # A CPU without bfloat16 units emulates them, at a fifth of the speed of float32.
    has_bf16 = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters in two groups: matrices and kernels, which decay, and vectors, which do not.

    Decay bounds how strongly a layer can react to its input. A bias reacts to nothing, and a normalisation's scale is
    one number a channel: pulling them to zero only shifts and shrinks the features.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_optimizers(
    name: OptimizerName, network: nn.Module, *, learning_rate: float, weight_decay: float, momentum: float
) -> list[torch.optim.Optimizer]:
    """Make the optimiser called `name` for a CNN; Muon comes as two (kernels, and AdamW for the rest)."""
    # Two groups, decayed and not; Muon, below, makes its own.
    groups = decay_groups(network, weight_decay)
    # Momentum and decay are settings of the run; all else is torch's default.
    match name:
        case "sgd":
            return [torch.optim.SGD(groups, lr=learning_rate)]
        case "momentum":
            # Nesterov: the gradient is taken as if the momentum had been followed already.
            return [torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=True)]
        case "rmsprop":
            return [torch.optim.RMSprop(groups, lr=learning_rate, momentum=momentum)]
        case "adam":
            return [torch.optim.Adam(groups, lr=learning_rate)]
        case "adamw":
            return [torch.optim.AdamW(groups, lr=learning_rate)]
        case "muon":
            return _make_muon(network, learning_rate, weight_decay, momentum)


def _make_muon(
    network: nn.Module, learning_rate: float, weight_decay: float, momentum: float
) -> list[torch.optim.Optimizer]:
    # The first convolution sees pixels: few, strongly correlated inputs, which AdamW suits better.
    # All other convolutions, in the order of the network.
    kernels = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)][1:]
    # Parameters are told apart by identity: comparing tensors compares their elements.
    taken = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    return [
        Muon(kernels, lr=learning_rate, weight_decay=weight_decay, momentum=momentum),
        # AdamW's steps are about its rate in every weight; Muon's are about its rate in every singular value.
        torch.optim.AdamW(rest, lr=learning_rate * 0.1, weight_decay=0.0),
    ]


def rate_factor(schedule: ScheduleName, progress: float, warmup: float) -> float:
    """Compute the factor on the peak rate at `progress` (0 to 1); a linear warm-up takes the part `warmup`.

    `linear` with warm-up is one-cycle; `step` divides by ten at 50 % and 75 % of what follows the warm-up.
    """
    # Adam and Muon know nothing of the gradients' size at first: full steps would be taken in random directions.
    # From zero up in a straight line.
    if progress < warmup:
        return progress / warmup
    # What is left of the run, as 0 to 1.
    decayed = (progress - warmup) / max(1 - warmup, 1e-9)
    match schedule:
        case "cosine":
            # Half a period from 1 to 0: slow at both ends (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5).
            return 0.5 * (1 + math.cos(math.pi * min(decayed, 1.0)))
        case "linear":
            # Straight down to zero.
            return max(1 - decayed, 0.0)
        case "step":
            # Long at one rate, then twice a tenth: each drop shows as a sudden fall of the loss, when the noise that
            # the rate kept up goes away.
            return 1.0 if decayed < 0.5 else 0.1 if decayed < 0.75 else 0.01
        case "constant":
            return 1.0


class WeightAverage:
    """An exponential moving average of a network's parameters and normalisation statistics.

    Noise of single batches makes weights circle around a minimum; their average lies nearer to it, and scores better
    (Polyak & Juditsky 1992; as an exponential average: Tarvainen & Valpola 2017, arXiv 1703.01780).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        # Saved with the average: a resumed one must not be young again.
        self.num_updates = 0
        # Starts as a copy of the random weights, which the first updates drive out.
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network; integer buffers (batch counters) are copied."""
        self.num_updates += 1
        # 2/11, 3/12, 4/13, ... up to `decay`: a young average forgets fast, so the random start does not linger.
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, tensor in network.state_dict().items():
            # average = decay * average + (1 - decay) * weights
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)
