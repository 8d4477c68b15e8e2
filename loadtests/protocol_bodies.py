"""Requests of the Open Inference Protocol for one tensor: as JSON, as binary data, as a gRPC message; and as a PNG.

It writes files to send. It knows the forms, not what serves them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

from loadtests.sample import encode_png, golden_images

_HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
MEAN_MODEL, MEAN_SHAPE = "mean-fp32", (3, 224, 224)


class Form(StrEnum):
    """How a request is written."""

    JSON = "JSON"
    BINARY = "binary HTTP"
    GRPC = "gRPC"
    PNG = "PNG"


@dataclass(frozen=True, slots=True)
class Body:
    """A file to send, and how: `path` on the server, media type and further headers; none of them for gRPC."""

    form: Form
    file: Path
    path: str = ""
    media_type: str = ""
    headers: tuple[str, ...] = ()


def write_bodies(model: str, name: str, tensor: NDArray[Any], outputs: tuple[str, ...], folder: Path) -> list[Body]:
    """Write a request for `model` in each form of the protocol."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"/v2/models/{model}/infer"
    described = {"name": name, "shape": list(tensor.shape), "datatype": _DATATYPES[tensor.dtype]}
    wanted = [{"name": output} for output in outputs]
    plain = json.dumps({"inputs": [described | {"data": tensor.ravel().tolist()}], "outputs": wanted}).encode()
    sized = described | {"parameters": {"binary_data_size": tensor.nbytes}}
    binary = [output | {"parameters": {"binary_data": True}} for output in wanted]
    header = json.dumps({"inputs": [sized], "outputs": binary}).encode()
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(**described)
    message.raw_input_contents.append(tensor.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    files = {
        Form.JSON: plain,
        Form.BINARY: header + tensor.tobytes(),
        Form.GRPC: message.SerializeToString(),
    }
    for form, content in files.items():
        (folder / form.name.lower()).write_bytes(content)
    length = f"{_HEADER_LENGTH}: {len(header)}"
    return [
        Body(Form.JSON, folder / "json", path, "application/json"),
        Body(Form.BINARY, folder / "binary", path, "application/octet-stream", (length,)),
        Body(Form.GRPC, folder / "grpc"),
    ]


def write_image_bodies(version: Path, folder: Path) -> list[Body]:
    """Requests for a classifier with its first golden image, which asks for probabilities; as PNG on its own route."""
    model, image = version.parent.name, golden_images(version)[0]
    bodies = write_bodies(model, "image", image[None], ("probabilities",), folder / model)
    png = folder / model / "png"
    png.write_bytes(encode_png(image))
    return [*bodies, Body(Form.PNG, png, f"/v1/models/{model}/classify", "image/png")]


def write_mean_model(repository: Path) -> None:
    """Write a bare ONNX model that costs next to nothing: the mean of each row of `float32[B,3,224,224]`."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *MEAN_SHAPE])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["B"])
    graph = helper.make_graph(nodes, MEAN_MODEL, [x], [mean])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder = repository / MEAN_MODEL / "1"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(content, folder / "model.onnx")


def write_mean_bodies(folder: Path) -> list[Body]:
    """Requests for the model of means with random numbers, in all their digits."""
    tensor = np.random.default_rng(0).standard_normal((1, *MEAN_SHAPE), dtype=np.float32)
    return write_bodies(MEAN_MODEL, "x", tensor, ("mean",), folder / MEAN_MODEL)
