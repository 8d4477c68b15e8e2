"""Convolutions in their cheaper forms compute what the plain ones do, also at the borders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.export.subpixels import DoublingConvolution, PairedConvolution, spread_pixels


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("low", "high"), [("replicate", "reflect"), ("constant", "constant")])
def test_doubling_computes_what_a_convolution_of_the_doubled_picture_does(low: str, high: str, has_bias: bool) -> None:
    convolution, features = nn.Conv2d(5, 3, 3, bias=has_bias), torch.randn(2, 5, 4, 6)

    doubled = functional.interpolate(features, scale_factor=2.0, mode="nearest")
    expected = convolution(functional.pad(doubled, (1, 1, 1, 1), mode=high))

    assert torch.allclose(DoublingConvolution(convolution, low)(features), expected, atol=1e-6)


@pytest.mark.parametrize("padding", ["reflect", "constant"])
def test_pairs_of_pixels_are_computed_as_single_ones(padding: str) -> None:
    convolution, features = nn.Conv2d(5, 3, 3), torch.randn(2, 5, 4, 6)

    expected = convolution(functional.pad(features, (1, 1, 1, 1), mode=padding))

    assert torch.allclose(PairedConvolution(convolution, padding)(features), expected, atol=1e-6)


def test_pixels_are_spread_row_by_row() -> None:
    features = torch.arange(8.0).reshape(1, 8, 1, 1)  # four places of two channels

    spread = spread_pixels(features)

    assert spread.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
