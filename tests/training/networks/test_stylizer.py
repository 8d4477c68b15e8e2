"""The stylizer takes any size that is a multiple of four, normalises as torch does, and keeps styles apart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.training.small_stylizers import small_photographs, small_stylizer
from training.networks.stylizer import EPSILON, instance_norm, with_style


@pytest.mark.parametrize(("height", "width"), [(8, 8), (36, 20), (100, 52), (12, 128)])
def test_pictures_of_any_size_that_is_a_multiple_of_four_keep_it(height: int, width: int) -> None:
    photographs = torch.rand(2, 3, height, width) * 255

    painted = small_stylizer()(photographs, torch.eye(3)[:2])

    assert painted.shape == photographs.shape
    assert painted.min() >= 0
    assert painted.max() <= 255
    assert painted.std() > 5


def test_the_normalisation_is_torchs_with_the_scale_and_shift_of_each_row() -> None:
    features = torch.randn(3, 5, 9, 7) * 4 + 2
    scale, shift = torch.randn(3, 5), torch.randn(3, 5)

    actual = instance_norm(features, scale, shift)

    for row in range(3):
        expected = functional.instance_norm(features[row : row + 1], weight=scale[row], bias=shift[row], eps=EPSILON)
        assert torch.allclose(actual[row : row + 1], expected, atol=1e-5)


def test_a_row_is_painted_alike_alone_and_in_a_batch() -> None:
    network, photographs = small_stylizer(), small_photographs(3)

    together = network(photographs, torch.eye(3))
    alone = torch.cat([network(photographs[i : i + 1], torch.eye(3)[i : i + 1]) for i in range(3)])

    assert torch.allclose(together, alone, atol=1e-3)


def test_blends_go_from_one_style_to_the_other() -> None:
    network, photographs = small_stylizer(), small_photographs(1)
    first, second = (network(photographs, torch.eye(3)[i : i + 1]) for i in (0, 1))

    nearly = network(photographs, torch.tensor([[0.999, 0.001, 0.0]]))
    halfway = network(photographs, torch.tensor([[0.5, 0.5, 0.0]]))

    assert (first - second).abs().mean() > 5
    assert (nearly - first).abs().mean() < 0.5
    assert (halfway - first).abs().mean() > 1
    assert (halfway - second).abs().mean() > 1


def test_the_table_holds_a_number_for_every_normalised_channel() -> None:
    network = small_stylizer(num_blocks=2)

    assert network.norm_widths == (16, 32, 48, 48, 48, 48, 48, 32, 16, 3)
    assert network.scale.shape == (3, sum(network.norm_widths))


def test_a_style_more_leaves_the_others_bit_for_bit() -> None:
    network, photographs = small_stylizer(), small_photographs(3)

    larger = with_style(network)

    assert larger.shape.num_styles == 4
    assert torch.equal(larger(photographs, torch.eye(4)[:3]), network(photographs, torch.eye(3)))
    assert torch.allclose(larger.scale[3], network.scale.mean(0))
