"""Optimisers by name, schedules, and the moving average of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.optimizers import (
    OPTIMIZERS,
    Muon,
    OptimizerName,
    ScheduleName,
    WeightAverage,
    make_optimizers,
    orthogonalized,
    rate_factor,
)

RATES: dict[OptimizerName, float] = {
    "sgd": 0.5,
    "momentum": 0.1,
    "rmsprop": 0.01,
    "adam": 0.02,
    "adamw": 0.02,
    "muon": 0.05,
}


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_optimiser_lowers_the_loss_in_every_memory_layout(
    name: OptimizerName, layout: torch.memory_format
) -> None:
    network = small_network().to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(32, 1, 8, 8)
    labels = (images.mean((1, 2, 3)) > 0).long()
    optimizers = make_optimizers(name, network, learning_rate=RATES[name], weight_decay=0.01, momentum=0.8)
    losses = []
    for _ in range(25):
        loss = functional.cross_entropy(network(images), labels)
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_biases_and_normalisation_do_not_decay() -> None:
    network = small_network()
    (optimizer,) = make_optimizers("momentum", network, learning_rate=0.1, weight_decay=0.3, momentum=0.9)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0
    assert {parameter.ndim for parameter in free["params"]} == {1}


def test_muon_takes_the_later_convolutions_and_adamw_the_rest() -> None:
    network = small_network()
    muon, adamw = make_optimizers("muon", network, learning_rate=0.1, weight_decay=0.1, momentum=0.8)
    assert isinstance(muon, Muon)
    assert [kernel.shape for kernel in muon.param_groups[0]["params"]] == [(4, 4, 3, 3)]
    assert isinstance(adamw, torch.optim.AdamW)
    assert len(adamw.param_groups[0]["params"]) == len(list(network.parameters())) - 1


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (40, 3, 3, 3), (6, 8)])
def test_muon_takes_the_steps_of_torchs_muon_up_to_rounding_also_for_kernels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape).contiguous()) for _ in range(2)]
    theirs = [nn.Parameter(each.detach().reshape(len(each), -1).clone()) for each in ours]
    before = theirs[0].detach().clone()
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.8}
    mine, torchs = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for kernel, matrix in zip(ours, theirs, strict=True):
            kernel.grad = torch.randn(shape)
            matrix.grad = kernel.grad.reshape(matrix.shape).clone()
        mine.step()
        torchs.step()  # type: ignore[no-untyped-call]
    for kernel, matrix in zip(ours, theirs, strict=True):
        moved = (matrix - before).norm() if matrix is theirs[0] else matrix.norm()
        assert (kernel.detach().reshape(matrix.shape) - matrix).norm() < 0.02 * moved


def test_a_matrix_that_is_orthogonalised_has_singular_values_near_one() -> None:
    for shape in ((3, 5, 9), (2, 9, 5)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
        assert values.min() > 0.5
        assert values.max() < 1.3


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("linear", 0.1, 0.5),
        ("linear", 0.2, 1.0),
        ("linear", 0.6, 0.5),
        ("linear", 1.0, 0.0),
        ("cosine", 0.2, 1.0),
        ("cosine", 0.6, 0.5),
        ("cosine", 1.0, 0.0),
        ("step", 0.5, 1.0),
        ("step", 0.7, 0.1),
        ("step", 0.9, 0.01),
        ("constant", 0.05, 0.25),
        ("constant", 0.99, 1.0),
    ],
)
def test_schedules_warm_up_over_a_fifth_and_then_decay(schedule: ScheduleName, progress: float, factor: float) -> None:
    assert rate_factor(schedule, progress, 0.2) == pytest.approx(factor)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate_factor("linear", 0.0, 0.0) == 1.0


def test_the_average_follows_weights_and_normalisation_statistics() -> None:
    network = small_network()
    average = WeightAverage(network, decay=0.5)
    before = {name: tensor.clone() for name, tensor in average.state.items()}
    with torch.no_grad():
        network.get_parameter("5.bias").add_(1)
        network.get_buffer("3.running_mean").add_(2)
        network.get_buffer("3.num_batches_tracked").add_(7)
    for _ in range(12):
        average.update(network)
    assert torch.allclose(average.state["5.bias"], before["5.bias"] + 1, atol=2e-3)
    assert torch.allclose(average.state["3.running_mean"], before["3.running_mean"] + 2, atol=4e-3)
    assert average.state["3.num_batches_tracked"] == 7
    assert torch.equal(average.state["5.weight"], before["5.weight"])


def test_an_average_without_decay_is_the_network() -> None:
    network = small_network()
    average = WeightAverage(network, decay=0.0)
    with torch.no_grad():
        network.get_parameter("5.bias").add_(1)
    average.update(network)
    assert torch.equal(average.state["5.bias"], network.get_parameter("5.bias"))
