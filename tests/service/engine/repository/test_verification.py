"""The gate for outputs of 8 bits; the other outputs' is seen in `test_loading.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.golden import Golden
from models.manifest import Datatype, Graph, TensorSpec
from service.engine.repository.verification import verify
from service.engine.repository.version_files import VersionRejected
from service.engine.transport.messages import Arrays
from training.export.version import ExportError, ParityCheck

PAINTING = np.random.default_rng(0).integers(1, 255, (2, 16, 16, 3), dtype=np.uint8)


class FixedRunner:
    """A graph with the same output for every input."""

    def __init__(self, painting: NDArray[np.generic]) -> None:
        self._painting = painting

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        return {"painting": self._painting[:num_rows]}


def error_of(expected: NDArray[np.generic], actual: NDArray[np.generic], kind: Datatype, tolerance: float) -> float:
    inputs = (TensorSpec(name="image", datatype="UINT8", shape=(-1, 1)),)
    outputs = (TensorSpec(name="painting", datatype=kind, shape=(-1, -1, -1, 3)),)
    graph = Graph(file="model.onnx", sha256="0" * 64, inputs=inputs, outputs=outputs)
    golden = Golden({"image": np.zeros((2, 1), np.uint8)}, {"painting": expected})
    return verify(FixedRunner(actual), graph, golden, 2, tolerance)


def raised_by(levels: int, every: int) -> NDArray[np.uint8]:
    painting = PAINTING.copy()
    painting.reshape(-1)[::every] += np.uint8(levels)
    return painting


def test_a_few_values_may_be_rounded_the_other_way() -> None:
    assert error_of(PAINTING, raised_by(1, every=20), "UINT8", 1e-3) == pytest.approx(1 / 255)


def test_an_image_that_is_off_by_a_level_everywhere_is_rejected() -> None:
    with pytest.raises(VersionRejected, match=r"by 1 of 255 levels on average at batch 2; at most 0\.1"):
        error_of(PAINTING, raised_by(1, every=1), "UINT8", 1e-3)


def test_a_single_value_that_is_two_levels_off_is_a_defect() -> None:
    with pytest.raises(VersionRejected, match=r"by 0\.00784 at batch 2; at most 0\.00392"):
        error_of(
            PAINTING,
            np.where(np.arange(PAINTING.size).reshape(PAINTING.shape) == 9, PAINTING + 2, PAINTING).astype(np.uint8),
            "UINT8",
            1e-3,
        )


def test_a_coarser_device_may_be_coarser_in_levels_too() -> None:
    assert error_of(PAINTING, raised_by(1, every=3), "UINT8", 2e-2) == pytest.approx(1 / 255)


def test_a_painting_of_another_size_is_rejected() -> None:
    with pytest.raises(VersionRejected, match="by inf"):
        error_of(PAINTING, PAINTING[:, :8], "UINT8", 1e-3)


def test_what_is_in_thousands_of_nats_may_differ_in_its_last_bits_and_the_export_judges_alike() -> None:
    nats = np.array([[15_000.0], [14_000.0]], np.float32)
    rounded, wrong = nats + np.float32(0.01), nats * np.float32(1.002)

    assert error_of(nats, rounded, "FP32", 1e-3) == pytest.approx(0.01 / 14_000, rel=0.1)
    ParityCheck().compare("distortion", nats, rounded)
    with pytest.raises(VersionRejected, match=r"by 0\.002 at batch 2; at most 0\.001"):
        error_of(nats, wrong, "FP32", 1e-3)
    with pytest.raises(ExportError, match=r"differs from torch by 0\.002"):
        ParityCheck().compare("distortion", nats, wrong)


def test_larger_integers_are_no_levels_and_must_be_equal() -> None:
    tokens = np.array([[3], [4]])

    assert error_of(tokens, tokens, "INT64", 1e-3) == 0
    with pytest.raises(VersionRejected, match="by 1 at batch 2"):
        error_of(tokens, tokens + 1, "INT64", 1e-3)


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "BF16"])
def test_a_golden_value_that_is_not_a_number_is_never_reproduced(kind: Datatype) -> None:
    poisoned = np.array([[0x3F80, 0x7FC0]] * 2, np.uint16) if kind == "BF16" else np.array([[1, np.nan]] * 2)
    plain = np.array([[0x3F80, 0x3F80]] * 2, np.uint16) if kind == "BF16" else np.ones((2, 2))

    assert error_of(plain, plain, kind, 1e-3) == 0
    for expected, actual in ((poisoned, poisoned), (poisoned, plain), (plain, poisoned)):
        with pytest.raises(VersionRejected, match="by inf"):
            error_of(expected, actual, kind, 1e-3)
