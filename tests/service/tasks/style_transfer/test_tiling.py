"""Plans of tiles cover every pixel once, with a full halo, within the limits of the network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.stylization import Style, Stylization
from service.tasks.style_transfer.tiling import BUCKET_PIXELS, mirrored, plan_tiles, statistics_size


def stylization(stride: int, tile_pixels: int, halo_pixels: int, max_pixels: int) -> Stylization:
    return Stylization(
        styles=(Style(name="a", thumbnail="a.jpg"),),
        stride=stride,
        max_pixels=max_pixels,
        tile_pixels=tile_pixels,
        halo_pixels=halo_pixels,
    )


SHIPPED = stylization(4, 768, 52, 1024 * 1024)
stylizations = st.builds(
    lambda stride, halo, inner, room: stylization(
        stride, stride * (2 * halo + inner), stride * halo, (stride * (2 * halo + inner)) ** 2 * room
    ),
    st.integers(1, 8),
    st.integers(0, 6),
    st.integers(1, 12),
    st.integers(1, 3),
)


@settings(max_examples=100)
@given(st.integers(32, 300), st.integers(32, 300), stylizations)
def test_every_pixel_is_kept_once_and_seen_right(height: int, width: int, spec: Stylization) -> None:
    plan = plan_tiles(height, width, spec)

    kept = np.zeros((height, width), np.uint8)
    for tile in plan.tiles:
        kept[tile.rows.kept_start : tile.rows.kept_end, tile.columns.kept_start : tile.columns.kept_end] += 1
        for span, padded in ((tile.rows, plan.padded_height), (tile.columns, plan.padded_width)):
            assert 0 <= span.start <= span.kept_start < span.kept_end <= span.end <= padded
            assert span.start % spec.stride == span.end % spec.stride == 0
            # A border that is not the image's own spoils what is within the halo.
            assert span.start == 0 or span.kept_start - span.start >= spec.halo_pixels
            assert span.end == padded or span.end - span.kept_end >= spec.halo_pixels
            assert span.end - span.start == min(spec.tile_pixels if plan.is_tiled else padded, padded)
    assert (kept == 1).all()
    assert plan.is_tiled == (plan.padded_height * plan.padded_width > spec.max_pixels)


@pytest.mark.parametrize(
    ("height", "width", "padded", "num_tiles"),
    [
        (32, 32, (32, 32), 1),
        (33, 47, (64, 64), 1),
        (1024, 1024, (1024, 1024), 1),
        (1025, 1024, (1056, 1024), 4),
        (400, 8000, (416, 8000), 12),
        (3000, 4000, (3008, 4000), 30),
        (5000, 5000, (5024, 5024), 64),
    ],
)
def test_the_shipped_network_needs_so_many_tiles(
    height: int, width: int, padded: tuple[int, int], num_tiles: int
) -> None:
    plan = plan_tiles(height, width, SHIPPED)

    assert (plan.padded_height, plan.padded_width) == padded
    assert len(plan.tiles) == num_tiles
    largest = max((t.rows.end - t.rows.start) * (t.columns.end - t.columns.start) for t in plan.tiles)
    assert largest <= SHIPPED.max_pixels


def test_sizes_that_are_alike_share_a_bucket() -> None:
    buckets = {(p.padded_height, p.padded_width) for p in (plan_tiles(h, 500, SHIPPED) for h in range(481, 513))}

    assert buckets == {(512, 512)}
    assert BUCKET_PIXELS == 32


def test_a_stride_that_is_no_part_of_the_bucket_is_kept_too() -> None:
    plan = plan_tiles(33, 100, stylization(12, 48, 12, 10_000))

    assert (plan.padded_height, plan.padded_width) == (96, 192)


@settings(max_examples=300)
@given(st.integers(32, 16_384), st.integers(32, 16_384), st.sampled_from([4, 8, 32]))
def test_statistics_come_from_an_image_that_the_network_takes(height: int, width: int, stride: int) -> None:
    spec = stylization(stride, 512, 64, 1024 * 1024)
    if height * width <= spec.max_pixels:
        return

    rows, columns = statistics_size(height, width, spec)

    assert rows % stride == columns % stride == 0
    assert min(rows, columns) >= stride
    assert 0.4 * spec.max_pixels < rows * columns <= spec.max_pixels
    # The proportions stay, up to one stride.
    assert abs(rows - np.sqrt(spec.max_pixels * height / width)) <= 2 * stride


@given(st.integers(1, 50), st.data())
def test_places_beyond_the_end_are_mirrored_as_numpy_does(side: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(1, 150))
    start = data.draw(st.integers(0, end - 1))
    whole = np.pad(np.arange(side), (0, max(end - side, 0)), mode="reflect")

    assert mirrored(start, end, side).tolist() == whole[start:end].tolist()
