"""A generator's version describes itself, agrees with torch, and is refused where a row depends on its batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from models.golden import read_golden
from models.manifest import read_manifest, sha256_hex
from tests.training.small_generators import (
    CARD,
    LATENT,
    loud_generator,
    loud_vae,
    small_mixture,
    small_rows,
)
from training.export.generators import (
    BLEND,
    BUCKETS,
    DECODER,
    ENCODER,
    NUM_SAMPLES,
    PRIOR,
    RECONSTRUCTION,
    check_generator_parity,
    check_rows_alike,
    export_generator,
    gan_graphs,
    open_generator_graph,
    vae_graphs,
)
from training.export.version import ExportError, ParityCheck

# Name, datatype and shape.
Tensor = tuple[str, str, tuple[int, ...]]

IMAGE = ("UINT8", (-1, 8, 8, 3))
LABEL, VECTOR = ("label", "INT64", (-1,)), ("FP32", (-1, LATENT))
EVERY_GRAPH = (DECODER, PRIOR, ENCODER, RECONSTRUCTION)


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_generator(gan_graphs(loud_generator()), small_rows(DECODER), CARD, tmp_path_factory.mktemp("gan"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional one; the command line's test exports one that is not."""
    graphs = vae_graphs(loud_vae(conditional=True), small_mixture())
    return export_generator(graphs, small_rows(*EVERY_GRAPH), CARD, tmp_path_factory.mktemp("vae"))


def signature(folder: Path, graph: str) -> tuple[list[Tensor], list[Tensor]]:
    described = read_manifest(folder).graphs[graph]
    session = onnxruntime.InferenceSession(folder / described.file, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == [tensor.name for tensor in described.inputs]
    assert [node.name for node in session.get_outputs()] == [tensor.name for tensor in described.outputs]
    sides: list[list[Tensor]] = [
        [(tensor.name, tensor.datatype, tensor.shape) for tensor in side]
        for side in (described.inputs, described.outputs)
    ]
    return sides[0], sides[1]


def test_a_gan_draws_from_latents_and_labels(gan: Path) -> None:
    assert signature(gan, DECODER) == ([("latent", *VECTOR), LABEL], [("image", *IMAGE)])
    assert signature(gan, BLEND) == ([("latent", *VECTOR), ("label_weights", "FP32", (-1, 10))], [("image", *IMAGE)])
    assert {path.name for path in gan.iterdir()} == {"decoder.onnx", "blend.onnx", "golden.npz", "manifest.json"}


@pytest.mark.slow
def test_the_graphs_of_a_conditional_vae_take_the_label_last(vae: Path) -> None:
    noise, scalar, plane = ("noise", "FP32", (-1, NUM_SAMPLES, LATENT)), ("FP32", (-1,)), ("FP32", (-1, 8, 8))

    assert signature(vae, DECODER) == ([("latent", *VECTOR), LABEL], [("image", *IMAGE)])
    assert signature(vae, PRIOR) == ([("noise", *VECTOR), ("choice", *scalar), LABEL], [("latent", *VECTOR)])
    assert signature(vae, ENCODER) == ([("image", *IMAGE), LABEL], [("mean", *VECTOR), ("log_variance", *VECTOR)])
    assert signature(vae, RECONSTRUCTION) == (
        [("image", *IMAGE), noise, LABEL],
        [("reconstruction", *IMAGE), ("error_map", *plane), ("rate", *scalar), ("distortion", *scalar)],
    )


def test_a_version_describes_itself(gan: Path, vae: Path) -> None:
    for folder in (gan, vae):
        manifest = read_manifest(folder)
        assert manifest.task == "image-generation"
        assert (manifest.labels, manifest.light_on_dark) == (CARD.labels, True)
        assert (manifest.batching.buckets, manifest.evaluation) == (BUCKETS, CARD.evaluation)
        assert manifest.parity is not None
        assert manifest.parity.max_abs_error < 1e-4
        for graph in manifest.graphs.values():
            assert graph.sha256 == sha256_hex((folder / graph.file).read_bytes())
            assert b".py" not in (folder / graph.file).read_bytes()
    assert read_manifest(vae).graphs[RECONSTRUCTION].max_batch_size == 16


def test_golden_rows_go_through_the_graphs(gan: Path, vae: Path) -> None:
    for folder in (gan, vae):
        golden = read_golden(folder)
        assert set(golden) == set(read_manifest(folder).graphs)
        for graph, rows in golden.items():
            session = onnxruntime.InferenceSession(folder / f"{graph}.onnx", providers=["CPUExecutionProvider"])
            outputs = session.run(list(rows.outputs), rows.inputs)
            for expected, actual in zip(rows.outputs.values(), outputs, strict=True):
                tolerance = 1 if actual.dtype == np.uint8 else 1e-3
                assert np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max() <= tolerance


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_is_the_same_to_the_bit_in_every_batch(gan: Path, num_threads: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(gan / "decoder.onnx", options, providers=["CPUExecutionProvider"])
    inputs = small_rows(DECODER).inputs(DECODER, 64)
    alone = np.concatenate(
        [session.run(None, {name: array[row : row + 1] for name, array in inputs.items()})[0] for row in range(64)]
    )

    for size in range(2, 65):
        (together,) = session.run(None, {name: array[:size] for name, array in inputs.items()})
        assert np.array_equal(together, alone[:size])


def test_graphs_of_other_weights_are_refused(gan: Path) -> None:
    other = gan_graphs(loud_generator(seed=1))[DECODER]
    with pytest.raises(ExportError, match=r"image of decoder at batch 1 differs from torch by \d+ levels"):
        check_generator_parity(
            other, DECODER, open_generator_graph(gan / "decoder.onnx", DECODER), small_rows(DECODER), ParityCheck()
        )


def test_a_prior_of_other_means_is_refused(vae: Path) -> None:
    mixture = small_mixture()
    mixture.means.add_(0.01)
    session = open_generator_graph(vae / "prior.onnx", PRIOR)
    with pytest.raises(ExportError, match=r"latent of prior at batch 1 differs from torch by 0\.0"):
        check_generator_parity(mixture, PRIOR, session, small_rows(PRIOR), ParityCheck())


def test_a_graph_whose_rows_depend_on_their_batch_is_refused(tmp_path: Path) -> None:
    vector, scalar = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", LATENT]) for name in "io")
    vector.name, scalar.name = "noise", "latent"
    choice = helper.make_tensor_value_info("choice", TensorProto.FLOAT, ["batch"])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    nodes = [
        helper.make_node("ReduceMean", ["noise", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["noise", "mean"], ["latent"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "mixing", [vector, choice, label], [scalar], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "p.onnx")

    with pytest.raises(ExportError, match=r"latent of prior: 1024 values are others in batches of 2"):
        check_rows_alike(PRIOR, open_generator_graph(tmp_path / "p.onnx", PRIOR), small_rows(PRIOR), 4)


def test_nothing_is_left_of_a_version_that_is_refused(
    gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.version.MAX_LEVELS", -1)
    monkeypatch.setattr(
        "training.export.generators.write_module", lambda *parts: shutil.copyfile(gan / "decoder.onnx", parts[-1])
    )
    with pytest.raises(ExportError, match="valid is -1 at most"):
        export_generator(gan_graphs(loud_generator()), small_rows(DECODER), CARD, tmp_path)
    assert list((tmp_path / "sample").iterdir()) == []
