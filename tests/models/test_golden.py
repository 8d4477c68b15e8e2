"""Golden rows survive the file, repeat to any batch size, and are compared strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.golden import Golden, deviation, largest_error, read_golden, write_golden
from models.manifest import GOLDEN_FILE

ENCODER = Golden(
    {"image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2)}, {"mean": np.array([[0.5], [1.5], [2.5]], np.float32)}
)
DECODER = Golden({"latent": np.ones((3, 1), np.float32)}, {"image": np.zeros((3, 4), np.uint8)})


def test_golden_rows_survive_the_file(tmp_path: Path) -> None:
    write_golden(tmp_path, {"encoder": ENCODER, "decoder": DECODER})
    read = read_golden(tmp_path)
    assert set(read) == {"encoder", "decoder"}
    for golden, expected in ((read["encoder"], ENCODER), (read["decoder"], DECODER)):
        for side, expected_side in ((golden.inputs, expected.inputs), (golden.outputs, expected.outputs)):
            assert set(side) == set(expected_side)
            for name, tensor in expected_side.items():
                assert side[name].dtype == tensor.dtype
                assert np.array_equal(side[name], tensor)


def test_outputs_of_variants_survive_the_file_beside_those_of_fp32(tmp_path: Path) -> None:
    outputs = {"mean": np.array([[0.5], [1.25], [2.5]], np.float32)}
    write_golden(tmp_path, {"encoder": Golden(ENCODER.inputs, ENCODER.outputs, {"int8": outputs})})
    read = read_golden(tmp_path)["encoder"]
    assert np.array_equal(read.variants["int8"]["mean"], outputs["mean"])
    assert np.array_equal(read.outputs["mean"], ENCODER.outputs["mean"])


@pytest.mark.parametrize("num_rows", [1, 3, 7])
def test_rows_are_cycled_to_any_number(num_rows: int) -> None:
    repeated = ENCODER.repeated(num_rows)
    assert repeated.inputs["image"].shape == (num_rows, 2, 2)
    for row in range(num_rows):
        assert np.array_equal(repeated.inputs["image"][row], ENCODER.inputs["image"][row % 3])
        assert np.array_equal(repeated.outputs["mean"][row], ENCODER.outputs["mean"][row % 3])


@pytest.mark.parametrize("key", ["image", "model/input", "model/sideways/image", "model/int9/image", "a/input/b/c"])
def test_a_key_of_another_form_is_refused(tmp_path: Path, key: str) -> None:
    with (tmp_path / GOLDEN_FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, **{key: np.zeros(1)})
    with pytest.raises(ValueError, match="keys must be like 'model/input/image'"):
        read_golden(tmp_path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    with (tmp_path / GOLDEN_FILE).open("wb") as file:
        np.savez(file, allow_pickle=True, **{"model/input/image": np.array([{}], object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_golden(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 10, 200])
def test_a_damaged_file_is_refused(tmp_path: Path, num_bytes: int) -> None:
    file = tmp_path / GOLDEN_FILE
    write_golden(tmp_path, {"encoder": ENCODER})
    assert file.stat().st_size > 200
    file.write_bytes(file.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"golden\.npz is damaged|pickle"):
        read_golden(tmp_path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_golden(tmp_path)


def test_the_largest_error_is_absolute_and_does_not_wrap_around() -> None:
    assert largest_error(np.array([1.0, 2.0]), np.array([1.5, 1.0])) == 1.0
    assert largest_error(np.array([0], np.uint8), np.array([255], np.uint8)) == 255.0
    assert largest_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_a_deviation_is_a_part_of_one_plus_the_magnitude() -> None:
    nats = np.array([15_000.0, 0.5], np.float32)
    assert deviation(nats, np.array([15_000.15001, 0.5])) == pytest.approx(1e-5)
    assert deviation(nats, np.array([15_000.0, 0.75])) == pytest.approx(0.25 / 1.5)
    assert deviation(-nats, np.array([-15_000.15001, -0.5])) == pytest.approx(1e-5)
    assert deviation(np.array([255], np.uint8), np.array([253], np.uint8)) == 2
    assert deviation(nats, np.array([np.nan, 0.5])) == float("inf")
    assert deviation(nats, nats[:1]) == float("inf")


@pytest.mark.parametrize("wrong", [[1.0, np.nan], [np.inf, 1.0], [1.0], [[1.0, 1.0]]])
def test_another_shape_or_a_value_that_is_not_finite_is_infinitely_wrong_on_either_side(wrong: list[float]) -> None:
    assert largest_error(np.array([1.0, 1.0]), np.array(wrong)) == float("inf")
    assert largest_error(np.array(wrong), np.array([1.0, 1.0])) == float("inf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_do_not_reproduce_themselves(value: float) -> None:
    assert largest_error(np.array([1.0, value]), np.array([1.0, value])) == float("inf")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_file_with_outputs_that_are_not_finite_is_refused(tmp_path: Path, kind: type) -> None:
    write_golden(tmp_path, {"model": Golden({"x": np.zeros((1, 2))}, {"y": np.array([[0, np.nan]], kind)})})
    with pytest.raises(ValueError, match="'model/output/y' that are not finite"):
        read_golden(tmp_path)
