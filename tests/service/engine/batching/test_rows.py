from __future__ import annotations

import pytest

from models.manifest import TensorSpec
from service.engine.batching.rows import RowRules, max_rows, num_elements
from service.errors import InvalidParameter

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, -1, -1, 3))
WEIGHTS = TensorSpec(name="style_weights", datatype="FP32", shape=(-1, 6))
PICTURES = RowRules((IMAGE, WEIGHTS), stride=4, max_positions=1024)
DIGITS = RowRules((TensorSpec(name="image", datatype="UINT8", shape=(-1, 28, 28, 1)),))


def test_a_row_that_the_manifest_fixes_needs_no_shapes() -> None:
    assert DIGITS.row_bytes(()) == 784
    assert DIGITS.row_bytes(((28, 28, 1),)) == 784
    assert not DIGITS.varies


def test_the_bytes_of_a_row_count_every_input() -> None:
    assert PICTURES.row_bytes(((32, 32, 3), (6,))) == 32 * 32 * 3 + 6 * 4
    assert num_elements(((32, 32, 3), (6,))) == 32 * 32 * 3 + 6


def test_the_inputs_of_a_shape_have_one_open_axis() -> None:
    specs = PICTURES.specs(((8, 4, 3), (6,)))

    assert [spec.shape for spec in specs] == [(-1, 8, 4, 3), (-1, 6)]


@pytest.mark.parametrize(
    ("row_shapes", "reason"),
    [
        ((), r"0 row shapes; the graph needs one for each of \['image', 'style_weights'\]"),
        (((8, 8, 3),), "1 row shapes"),
        (((8, 8, 3), (6,), (6,)), "3 row shapes"),
        (((8, 8), (6,)), r"'image' has the shape \[8, 8\]; the graph takes \[-1, -1, 3\]"),
        (((8, 8, 4), (6,)), r"'image' has the shape \[8, 8, 4\]; the graph takes"),
        (((8, 8, 3), (5,)), r"'style_weights' has the shape \[5\]; the graph takes \[6\]"),
        (((0, 8, 3), (6,)), "positive multiples of 4"),
        (((-4, 8, 3), (6,)), "positive multiples of 4"),
        (((33, 48, 3), (6,)), "positive multiples of 4"),
        (((36, 32, 3), (6,)), r"the product of the sizes \[36, 32\] must be at most 1024"),
        (((2**62, 2**62, 3), (6,)), "must be at most 1024"),
    ],
)
def test_rows_that_the_graph_cannot_take_are_refused_with_a_reason(
    row_shapes: tuple[tuple[int, ...], ...], reason: str
) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        PICTURES.row_bytes(row_shapes)


def test_any_positive_size_will_do_where_nothing_bounds_it() -> None:
    rules = RowRules((TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1)),))

    assert rules.row_bytes(((7,),)) == 56
    with pytest.raises(InvalidParameter, match="must be at least 1"):
        rules.row_bytes(((0,),))


@pytest.mark.parametrize(("side", "expected"), [(8, 4), (16, 4), (20, 3), (32, 1), (1024, 1)])
def test_a_batch_is_bounded_by_elements_but_takes_one_row_always(side: int, expected: int) -> None:
    assert max_rows(((side, side, 3),), max_batch_size=4, max_batch_elements=16 * 16 * 3 * 5) == expected


def test_without_a_bound_of_elements_only_rows_count() -> None:
    assert max_rows(((1024, 1024, 3),), 4, None) == 4


def test_an_input_may_have_one_number_a_row() -> None:
    latent = TensorSpec(name="latent", datatype="FP32", shape=(-1, 4))
    label = TensorSpec(name="label", datatype="INT64", shape=(-1,))
    rules = RowRules((latent, label))

    assert rules.row_bytes(()) == rules.row_bytes(((4,), ())) == 4 * 4 + 8
    assert num_elements(((4,), ())) == 5
    with pytest.raises(InvalidParameter, match=r"'label' has the shape \[1\]; the graph takes \[\]"):
        rules.row_bytes(((4,), (1,)))
