"""The three graphs, in torch: one folded normalisation, tiles that equal the whole, and the halo that they need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.training.small_stylizers import small_photographs, small_stylizer
from training.export.style import StatisticsReader, TilePainter, WholePainter, folded_norm, halo_pixels
from training.networks.stylizer import STRIDE, Stylizer, instance_norm


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def image(num_rows: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_rows, height, width, 3), generator=generator, dtype=torch.uint8)


def test_the_folded_normalisation_is_the_networks() -> None:
    features, scale, shift = torch.randn(3, 5, 8, 6), torch.randn(3, 5), torch.randn(3, 5)

    assert torch.allclose(folded_norm(features, scale, shift), instance_norm(features, scale, shift), atol=1e-5)


def test_the_whole_painter_rounds_what_the_network_paints() -> None:
    network, rows = small_stylizer(), image(2, 36, 20)
    weights = torch.tensor([[1.0, 0, 0], [0.25, 0, 0.75]])

    painting = WholePainter(network)(rows, weights)

    expected = network(rows.permute(0, 3, 1, 2).float(), weights).permute(0, 2, 3, 1)
    assert (painting.dtype, painting.shape) == (torch.uint8, rows.shape)
    assert (painting.float() - expected).abs().max() <= 0.51


def test_statistics_are_those_of_every_normalisation_in_order() -> None:
    network, rows, weights = small_stylizer(), image(2, 36, 20), torch.eye(3)[:2]
    seen: list[torch.Tensor] = []

    def norm(features: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        seen.append(torch.stack([features.mean((2, 3)), (features.var((2, 3), correction=0) + 1e-5).sqrt()]))
        return instance_norm(features, scale, shift)

    network(rows.permute(0, 3, 1, 2).float(), weights, norm)

    mean, deviation = StatisticsReader(network)(rows, weights)
    expected = torch.cat(seen, 2)
    assert mean.shape == (2, sum(network.norm_widths))
    assert torch.allclose(mean, expected[0], atol=1e-4)
    assert torch.allclose(deviation, expected[1], atol=1e-4)


def test_a_tile_with_the_statistics_of_the_whole_equals_it_from_the_halo_inwards() -> None:
    network, whole, weights = small_stylizer(), image(1, 120, 144), torch.eye(3)[1:2]
    halo = halo_pixels(network)
    statistics = StatisticsReader(network)(whole, weights)
    painted = WholePainter(network)(whole, weights).int()

    top, left, side = 16, 32, 88
    tile = TilePainter(network)(whole[:, top : top + side, left : left + side], weights, *statistics).int()

    inner = slice(halo, side - halo)
    expected = painted[:, top + halo : top + side - halo, left + halo : left + side - halo]
    assert (tile[:, inner, inner] - expected).abs().max() <= 1
    edge = painted[:, top : top + side, left : left + side]
    assert (tile - edge).abs().max() > 1


@pytest.mark.parametrize(("num_blocks", "halo"), [(1, 20), (2, 28), (5, 52)])
def test_the_halo_is_how_far_a_pixel_sees_and_no_stride_more(num_blocks: int, halo: int) -> None:
    network = small_stylizer(num_blocks=num_blocks)
    assert halo_pixels(network) == halo
    reach = max(_reach(network, place, halo) for place in range(STRIDE))
    assert halo - STRIDE < reach <= halo


def _reach(network: Stylizer, place: int, halo: int) -> int:
    """How far the pixel `place` of a stride in the middle of a picture sees, by the gradient of what it paints.

    Kernels of ones and no rectified zeros: nothing that can be seen cancels out.
    """
    for parameter in network.parameters():
        parameter.fill_(0.01 if parameter.ndim == 4 else 1.0)
    middle = halo + 2 * STRIDE + place
    side = 2 * halo + 4 * STRIDE

    def plain(features: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return features / features.abs().max().detach() + 1e-3

    with torch.enable_grad():
        picture = torch.full((1, 3, side, side), 200.0, dtype=torch.float64, requires_grad=True)
        network.double()(picture, torch.eye(3, dtype=torch.float64)[:1], plain)[0, :, middle, middle].sum().backward()
    assert picture.grad is not None
    seen = picture.grad[0].abs().sum((0, 1)).nonzero().flatten()
    return int(max(middle - seen.min(), seen.max() - middle))


def test_pixels_beyond_the_halo_do_not_count() -> None:
    network, weights = small_stylizer(), torch.eye(3)[:1]
    halo, side = halo_pixels(network), 96
    picture = small_photographs(1, side).byte().permute(0, 2, 3, 1).contiguous()
    statistics = StatisticsReader(network)(picture, weights)
    other = picture.clone()
    other[:, 40, 40] = 255 - other[:, 40, 40]

    changed = TilePainter(network)(other, weights, *statistics) != TilePainter(network)(picture, weights, *statistics)

    rows, columns = changed[0].any(2).any(1).nonzero().flatten(), changed[0].any(2).any(0).nonzero().flatten()
    assert len(rows) > 4
    for touched in (rows, columns):
        assert touched.min() >= 40 - halo
        assert touched.max() <= 40 + halo
