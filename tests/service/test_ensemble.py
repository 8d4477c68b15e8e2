"""Two models merged into one graph, as the README shows, are served as one and equal the two in sequence."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from tritonclient import http as triton

from service.settings import SHIPPED_REPOSITORY
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, write_bare
from tests.servers import RunningService

NUM_ROWS = 5


def run(graph: bytes | Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(graph if isinstance(graph, bytes) else str(graph))
    return list(session.run(None, inputs))


def encoder_and_decoder() -> bytes:
    """The encoder of the shipped VAE, followed by its decoder."""
    folder = SHIPPED_REPOSITORY / "fashion-vae" / "1"
    encoder, decoder = (onnx.load(folder / f"{name}.onnx") for name in ("encoder", "decoder"))
    merged = onnx.compose.merge_models(
        encoder, decoder, io_map=[("mean", "latent")], prefix1="e.", prefix2="d.", outputs=["d.image"]
    )
    return bytes(merged.SerializeToString())


def preparation() -> bytes:
    """Inverts images of dark objects on white for the shipped classifier."""
    nodes = [
        helper.make_node("Cast", ["photo"], ["numbers"], to=FLOAT),
        helper.make_node("Sub", ["white", "numbers"], ["inverted"]),
        helper.make_node("Cast", ["inverted"], ["image"], to=TensorProto.UINT8),
    ]
    shape = ["batch", 28, 28, 1]
    return graph_bytes(
        nodes,
        [("photo", TensorProto.UINT8, shape)],
        [("image", TensorProto.UINT8, shape)],
        {"white": np.float32(255)},
    )


def prepared_classifier() -> bytes:
    classifier = onnx.load(SHIPPED_REPOSITORY / "fashion-mnist" / "1" / "model.onnx")
    before = onnx.load_from_string(preparation())
    before.opset_import[0].version, before.ir_version = classifier.opset_import[0].version, classifier.ir_version
    merged = onnx.compose.merge_models(before, classifier, io_map=[("image", classifier.graph.input[0].name)])
    return bytes(merged.SerializeToString())


def test_merged_models_are_served_as_one(tmp_path: Path) -> None:
    write_bare(tmp_path, "rebuild", encoder_and_decoder())
    write_bare(tmp_path, "prepared", prepared_classifier())
    images = np.random.default_rng(5).integers(0, 256, (NUM_ROWS, 28, 28, 1), np.uint8)
    vae = SHIPPED_REPOSITORY / "fashion-vae" / "1"
    latent = run(vae / "encoder.onnx", image=images)[0]
    (rebuilt,) = run(vae / "decoder.onnx", latent=latent)
    (prepared,) = run(preparation(), photo=images)
    classified = run(SHIPPED_REPOSITORY / "fashion-mnist" / "1" / "model.onnx", image=prepared)

    with RunningService(tmp_path, "--instances", "1", "--threads", "1") as service:
        url = service.wait_until_ready().url
        sizes = {
            name: httpx.get(f"{url}/v2/models/{name}/config").json()["max_batch_size"]
            for name in ("rebuild", "prepared")
        }
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            image = triton.InferInput("e.image", list(images.shape), "UINT8").set_data_from_numpy(images)
            photo = triton.InferInput("photo", list(images.shape), "UINT8").set_data_from_numpy(images)
            answers = client.infer("rebuild", [image]), client.infer("prepared", [photo])

    assert all(size > 1 for size in sizes.values())
    assert np.abs(answers[0].as_numpy("d.image").astype(int) - rebuilt).max() <= 1
    np.testing.assert_allclose(answers[1].as_numpy("probabilities"), classified[0], atol=1e-5)
