"""Generators and a stylizer of several graphs over the Open Inference Protocol answer as bare ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton

from models.manifest import ONNX_DATATYPES
from tests.servers import RunningService

Arrays = dict[str, NDArray[Any]]

# Sizes for the open axes of an input, where they are not those of rows alone.
PAINTED: dict[str, tuple[int, ...]] = {"image": (32, 48, 3)}
GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "tiny-vae.decoder": ("tiny-vae/1/decoder", {}),
    "tiny-vae.prior": ("tiny-vae/1/prior", {}),
    "tiny-vae.encoder": ("tiny-vae/1/encoder", {}),
    "tiny-vae.reconstruction": ("tiny-vae/1/reconstruction", {}),
    "tiny-gan": ("tiny-gan/1/decoder", {}),
    "tiny-gan.decoder": ("tiny-gan/1/decoder", {}),
    "tiny-stylizer": ("tiny-stylizer/1/model", PAINTED),
    "tiny-stylizer.statistics": ("tiny-stylizer/1/statistics", PAINTED),
    "tiny-stylizer.tile": ("tiny-stylizer/1/tile", PAINTED),
}
NUM_ROWS = 3


def made_up(session: ort.InferenceSession, row_shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Rows for every input: pictures and labels at random, numbers as noise, shares that add up to 1."""
    random = np.random.default_rng(11)
    arrays: Arrays = {}
    for node in session.get_inputs():
        shape = (NUM_ROWS, *row_shapes.get(node.name, node.shape[1:]))
        if ONNX_DATATYPES[node.type] == "UINT8":
            arrays[node.name] = random.integers(0, 256, shape, np.uint8)
        elif ONNX_DATATYPES[node.type] == "INT64":
            arrays[node.name] = random.integers(0, 2, shape)
        elif node.name == "style_weights":
            arrays[node.name] = random.dirichlet(np.ones(shape[1]), NUM_ROWS).astype(np.float32)
        elif node.name in ("choice", "mean", "deviation"):
            arrays[node.name] = random.uniform(0.1, 1, shape).astype(np.float32)
        else:
            arrays[node.name] = random.normal(size=shape).astype(np.float32)
    return arrays


def told(nodes: list[Any]) -> list[dict[str, Any]]:
    """Inputs or outputs as the metadata lists them: any size is -1."""
    return [
        {
            "name": node.name,
            "datatype": ONNX_DATATYPES[node.type],
            "shape": [size if isinstance(size, int) else -1 for size in node.shape],
        }
        for node in nodes
    ]


def inputs_of(client: Any, arrays: Arrays, **options: Any) -> list[Any]:
    """The arrays as inputs of one of Triton's clients."""
    datatypes = {"u": "UINT8", "i": "INT64", "f": "FP32"}
    return [
        client.InferInput(name, list(array.shape), datatypes[array.dtype.kind]).set_data_from_numpy(array, **options)
        for name, array in arrays.items()
    ]


def assert_alike(result: Any, expected: Arrays) -> None:
    for name, array in expected.items():
        found = result.as_numpy(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        tolerance = 1 if array.dtype == np.uint8 else 1e-4 * max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found.astype(np.float64), array.astype(np.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_answers_as_bare_onnx_runtime_does(request: pytest.FixtureRequest, name: str) -> None:
    file, row_shapes = GRAPHS[name]
    task = "style_transfer" if "stylizer" in name else "image_generation"
    running: RunningService = request.getfixturevalue(f"{task}_service")
    folder: Path = request.getfixturevalue(f"{task}_repository")
    session = ort.InferenceSession(folder / f"{file}.onnx", providers=["CPUExecutionProvider"])
    arrays = made_up(session, row_shapes)
    expected = dict(zip([node.name for node in session.get_outputs()], session.run(None, arrays), strict=True))
    url = f"{running.url}/v2/models/{name}"

    with triton.InferenceServerClient(running.url.removeprefix("http://")) as client:
        answers = [client.infer(name, inputs_of(triton, arrays, binary_data=binary)) for binary in (True, False)]
    with triton_grpc.InferenceServerClient(running.grpc_address) as client:
        answers.append(client.infer(name, inputs_of(triton_grpc, arrays)))
    metadata, config = httpx.get(url).json(), httpx.get(f"{url}/config").json()

    for answer in answers:
        assert_alike(answer, expected)
    assert (metadata["platform"], metadata["versions"]) == ("onnx_onnxv1", ["1"])
    assert {tensor["name"]: tensor for tensor in metadata["inputs"]} == {
        t["name"]: t for t in told(session.get_inputs())
    }
    assert [output["name"] for output in metadata["outputs"]] == list(expected)
    assert [output["datatype"] for output in metadata["outputs"]] == [
        t["datatype"] for t in told(session.get_outputs())
    ]
    assert config["default_model_filename"] == Path(file).name + ".onnx"
    assert [each["dims"] for each in config["input"]] == [tensor["shape"][1:] for tensor in metadata["inputs"]]
    assert config["max_batch_size"] >= NUM_ROWS


def test_a_generator_without_a_main_graph_names_its_graphs(image_generation_service: RunningService) -> None:
    body: dict[str, list[Any]] = {"inputs": []}

    answers = [
        httpx.get(f"{image_generation_service.url}/v2/models/tiny-vae"),
        httpx.get(f"{image_generation_service.url}/v2/models/tiny-vae/config"),
    ]
    answers.append(httpx.post(f"{image_generation_service.url}/v2/models/tiny-vae/infer", json=body))

    for answer in answers:
        assert answer.status_code == 400
        for graph in ("decoder", "encoder", "prior", "reconstruction"):
            assert f"tiny-vae.{graph}" in answer.json()["error"]
    ready = httpx.get(f"{image_generation_service.url}/v2/models/tiny-vae/ready")
    assert ready.status_code == 200
