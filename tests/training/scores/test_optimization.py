"""Optimised pictures: both optimisers lower the loss, one evaluation a step, from the photograph or from noise."""

from __future__ import annotations

import pytest
import torch

from tests.training.small_stylizers import small_loss, small_photographs
from training.scores.gatys import DEFAULT_RATES, OPTIMIZERS, Iterate, OptimizerName, iterate, start_picture


def run(optimizer: OptimizerName, num_steps: int = 12, begin: torch.Tensor | None = None) -> list[Iterate]:
    photograph = small_photographs(1)
    return list(
        iterate(
            small_loss(),
            photograph,
            1,
            photograph if begin is None else begin,
            optimizer=optimizer,
            rate=DEFAULT_RATES[optimizer],
            num_steps=num_steps,
        )
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_from_that_of_the_photograph(optimizer: OptimizerName) -> None:
    photograph = small_photographs(1)

    iterates = run(optimizer)

    assert [it.iteration for it in iterates] == list(range(13))
    assert torch.equal(iterates[0].picture, photograph)
    assert iterates[0].loss.content.item() == 0
    assert iterates[-1].loss.total < 0.7 * iterates[0].loss.total
    assert torch.equal(photograph, small_photographs(1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_loss_is_that_of_the_picture_beside_it(optimizer: OptimizerName) -> None:
    photograph, loss = small_photographs(1), small_loss()

    for it in run(optimizer, num_steps=3):
        expected = loss(it.picture, photograph, torch.tensor([1]))
        assert it.loss.total.item() == pytest.approx(expected.total.item(), rel=1e-4)


def test_adams_pictures_stay_within_range() -> None:
    pictures = torch.cat([it.picture for it in run("adam", num_steps=8)])

    assert pictures.min() == 0
    assert pictures.max() <= 255


def test_noise_is_seeded_and_leads_to_the_painting_as_well() -> None:
    photograph = small_photographs(1)
    noise = start_picture(photograph, "noise", 3)
    assert torch.equal(noise, start_picture(photograph, "noise", 3))
    assert not torch.equal(noise, start_picture(photograph, "noise", 4))
    assert torch.equal(start_picture(photograph, "content", 3), photograph)

    iterates = run("lbfgs", begin=noise)

    assert torch.equal(iterates[0].picture, noise)
    assert iterates[-1].loss.total < 0.7 * iterates[0].loss.total
