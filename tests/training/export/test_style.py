"""A stylizer's version describes itself, agrees with torch at any size, and is not written when it would not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from models.golden import read_golden
from models.manifest import Evaluation, Manifest, read_manifest, sha256_hex
from tests.training.lineage import UNTRAINED
from tests.training.small_stylizers import photographs, small_stylizer
from training.data.photographs import made_up_paintings
from training.export.style import (
    BUCKETS,
    MAX_PIXELS,
    TILE,
    check_style_parity,
    export_stylizer,
    halo_pixels,
    sample_inputs,
)
from training.export.version import ExportError, ModelCard

pytestmark = pytest.mark.slow

STYLES = ("stripes", "dots", "lines")
CARD = ModelCard(
    name="sample",
    version="2",
    task="style-transfer",
    description="A sample.",
    evaluation=(Evaluation(metric="gatys_k_adam", value=9.0, dataset="sample", split="held-out", count=4),),
    training=UNTRAINED,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    return export_stylizer(small_stylizer(), made_up_paintings(STYLES), photographs(), CARD, repository)


def opened(folder: Path, graph: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / f"{graph}.onnx", providers=["CPUExecutionProvider"])


def test_a_version_describes_its_graphs_and_shows_its_styles(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert {path.name for path in folder.iterdir()} == {
        *(f"{graph}.onnx" for graph in ("model", "statistics", "tile")),
        *(f"{style}.jpg" for style in STYLES),
        "golden.npz",
        "manifest.json",
    }
    assert (manifest.task, manifest.batching.buckets) == ("style-transfer", BUCKETS)
    assert manifest.evaluation == CARD.evaluation
    assert manifest.parity is not None
    assert 0 < manifest.parity.max_abs_error < 1e-4
    assert manifest.stylization is not None
    assert manifest.stylization.halo_pixels == halo_pixels(small_stylizer())
    assert [(style.name, style.thumbnail) for style in manifest.stylization.styles] == [
        (style, f"{style}.jpg") for style in STYLES
    ]
    for style in manifest.stylization.styles:
        with Image.open(folder / style.thumbnail) as image:
            assert max(image.size) == 48
    for graph in manifest.graphs.values():
        assert graph.sha256 == sha256_hex((folder / graph.file).read_bytes())


def test_signatures_leave_batch_height_and_width_open(folder: Path) -> None:
    manifest: Manifest = read_manifest(folder)
    num_norms = sum(small_stylizer().norm_widths)
    image = ("image", "UINT8", (-1, -1, -1, 3))
    weights, painting = ("style_weights", "FP32", (-1, 3)), ("painting", "UINT8", (-1, -1, -1, 3))
    statistics = [(name, "FP32", (-1, num_norms)) for name in ("mean", "deviation")]
    expected = {
        "model": ([image, weights], [painting]),
        "statistics": ([image, weights], statistics),
        "tile": ([image, weights, *statistics], [painting]),
    }

    for name, graph in manifest.graphs.items():
        sides = tuple([(t.name, t.datatype, t.shape) for t in side] for side in (graph.inputs, graph.outputs))
        assert sides == expected[name]
        session = opened(folder, name)
        assert [node.name for node in session.get_inputs()] == [tensor.name for tensor in graph.inputs]
        assert [node.name for node in session.get_outputs()] == [tensor.name for tensor in graph.outputs]


def test_a_batch_holds_the_pixels_of_one_largest_picture(folder: Path) -> None:
    num_norms = sum(small_stylizer().norm_widths)
    for name, beside in (("model", 3), ("statistics", 3), ("tile", 3 + 2 * num_norms)):
        limit = read_manifest(folder).graphs[name].max_batch_elements
        assert limit is not None
        assert limit // (3 * MAX_PIXELS + beside) == 1
        assert limit // (3 * 512 * 512 + beside) == 4
        assert limit // (3 * 256 * 256 + beside) >= 8


def test_golden_rows_go_through_the_graphs(folder: Path) -> None:
    golden = read_golden(folder)

    assert set(golden) == {"model", "statistics", "tile"}
    weights = golden["model"].inputs["style_weights"]
    assert len(weights) == 3
    assert weights.sum(1).tolist() == [1, 1, 1]
    assert len({tuple(row) for row in weights.tolist()}) == 3
    assert (np.count_nonzero(weights, 1) > 1).any()
    for name, rows in golden.items():
        outputs = opened(folder, name).run(list(rows.outputs), rows.inputs)
        for expected, actual in zip(rows.outputs.values(), outputs, strict=True):
            tolerance = 1 if actual.dtype == np.uint8 else 1e-4
            assert np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max() <= tolerance


def test_the_model_normalises_in_one_operator_a_layer(folder: Path) -> None:
    counts = Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)

    assert counts["InstanceNormalization"] == len(small_stylizer().norm_widths)
    assert not {"ReduceMean", "Sqrt", "Pow"} & set(counts)
    tiles = Counter(node.op_type for node in onnx.load(folder / "tile.onnx").graph.node)
    assert not {"ReduceMean", "Sqrt", "InstanceNormalization"} & set(tiles)


def test_graphs_do_not_tell_of_the_machine_that_wrote_them(folder: Path) -> None:
    for graph in ("model", "statistics", "tile"):
        content = (folder / f"{graph}.onnx").read_bytes()
        assert b".py" not in content
        assert str(Path.home()).encode() not in content


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 60, 44), (2, 256, 516)])
def test_a_batch_equals_its_rows_at_any_size(folder: Path, shape: tuple[int, int, int]) -> None:
    inputs = sample_inputs(photographs(), 3, shape)
    session = opened(folder, "model")

    (together,) = session.run(None, inputs)

    assert together.shape == (*shape, 3)
    for row in range(shape[0]):
        (alone,) = session.run(None, {name: array[row : row + 1] for name, array in inputs.items()})
        assert np.abs(together[row].astype(int) - alone[0].astype(int)).max() <= 1


def test_tiles_join_without_a_seam(folder: Path) -> None:
    halo = halo_pixels(small_stylizer())
    inputs = sample_inputs(photographs(), 3, (1, 128, 192))
    (whole,) = opened(folder, "model").run(None, inputs)
    mean, deviation = opened(folder, "statistics").run(None, inputs)
    tile = opened(folder, "tile")
    cut = 96

    def painted(columns: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        part = {"image": inputs["image"][:, :, columns], "style_weights": inputs["style_weights"]}
        result: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = tile.run(
            None, part | {"mean": mean, "deviation": deviation}
        )[0]
        return result

    left, right = painted(slice(0, cut + halo)), painted(slice(cut - halo, 192))
    joined = np.concatenate([left[:, :, :cut], right[:, :, halo:]], 2)
    assert np.abs(joined.astype(int) - whole.astype(int)).max() <= 1
    both = left[:, :, cut - 4 : cut], right[:, :, halo - 4 : halo]
    assert (both[0] == both[1]).mean() > 0.3


def test_graphs_of_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(ExportError, match="differs from torch by"):
        check_style_parity(small_stylizer(seed=1), folder, photographs())


def test_a_graph_that_tiles_wrongly_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = onnx.load(tmp_path / f"{TILE}.onnx")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("shift"))
    scale.raw_data = (np.frombuffer(scale.raw_data, np.float32) + 0.01).tobytes()
    onnx.save(model, tmp_path / f"{TILE}.onnx")

    with pytest.raises(ExportError, match="the painting of tile"):
        check_style_parity(small_stylizer(), tmp_path, photographs())
