"""Requests as files that a client posts: a tensor in each form of the Open Inference Protocol, an image as it is.

They know the service's routes and message formats, but neither servers nor clients.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.sample import encode_png, golden_images

RAW, PNG, JSON, BINARY, GRPC = "raw", "PNG", "JSON", "binary", "gRPC"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
OCTETS = "application/octet-stream"
_DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}


@dataclass(frozen=True, slots=True)
class Body:
    """A file to post and how; `headers` are further lines, as in "Accept: */*"."""

    form: str
    file: Path
    path: str
    media_type: str = OCTETS
    headers: tuple[str, ...] = ()


def write_tensor_bodies(
    model: str, name: str, tensor: NDArray[Any], outputs: Sequence[str], folder: Path
) -> list[Body]:
    """Write a request of the Open Inference Protocol as JSON, as binary data and as a gRPC frame."""
    # Imported here: whoever sends no gRPC does without its packages.
    from tritonclient.grpc import service_pb2

    path, wanted = f"/v2/models/{model}/infer", [{"name": output} for output in outputs]
    described = {"name": name, "shape": list(tensor.shape), "datatype": _DATATYPES[tensor.dtype]}
    plain = {"inputs": [described | {"data": tensor.ravel().tolist()}], "outputs": wanted}
    sized = described | {"parameters": {"binary_data_size": tensor.nbytes}}
    binary = [output | {"parameters": {"binary_data": True}} for output in wanted]
    header = json.dumps({"inputs": [sized], "outputs": binary}).encode()
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(**described)
    message.raw_input_contents.append(tensor.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    content = message.SerializeToString()
    # A gRPC frame: not compressed, the message's length, the message.
    frame = struct.pack(">BI", 0, len(content)) + content
    length = f"Inference-Header-Content-Length: {len(header)}"
    return [
        Body(JSON, _write(folder / model / "json", json.dumps(plain).encode()), path, "application/json"),
        Body(BINARY, _write(folder / model / "binary", header + tensor.tobytes()), path, headers=(length,)),
        Body(GRPC, _write(folder / model / "grpc", frame), GRPC_PATH, "application/grpc", ("te: trailers",)),
    ]


def write_random_bodies(model: str, shape: Sequence[int], output: str, folder: Path) -> list[Body]:
    """Write a row of random FP32 numbers, with all their digits, for the input `x` of a model."""
    tensor = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    return write_tensor_bodies(model, "x", tensor, (output,), folder)


def write_row(model: str, shape: Sequence[int], path: str, folder: Path) -> Body:
    """Write the same row as it is, for a server whose bodies are nothing but the row."""
    row = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return Body(BINARY, _write(folder / model / "row", row.tobytes()), path)


def write_image_bodies(version: Path, folder: Path) -> list[Body]:
    """Write the first golden image of a classifier's version, as raw pixels and as PNG.

    Raises: OSError, ValueError when the version takes no images.
    """
    model, image = version.parent.name, golden_images(version)[0]
    path = f"/v1/models/{model}/classify"
    return [
        Body(RAW, _write(folder / model / "image.raw", image.tobytes()), path),
        Body(PNG, _write(folder / model / "image.png", encode_png(image)), path, "image/png"),
    ]


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file
