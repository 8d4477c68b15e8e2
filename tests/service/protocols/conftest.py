"""A running service whose models answer what they are asked, over HTTP and gRPC: echoes of every datatype."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc as triton

from service.protocols.open_inference.tensors import DATATYPES
from tests.fake_models.bare_graphs import graph_bytes, one_node, scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
} | {
    f"{kind}{bits}": TensorProto.DataType.Value(f"{kind}{bits}") for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}


MAX_RANK = 3
MAX_BODY_BYTES = 4_000_000


TABLE_COLUMNS = tuple(f"column_{at}" for at in range(300))


def table_bytes() -> bytes:
    """`y` is the sum of the columns of a table, each an input, as `skl2onnx` exports a data frame."""
    columns = [(name, TensorProto.FLOAT, ["batch", 1]) for name in TABLE_COLUMNS]
    node = helper.make_node("Sum", list(TABLE_COLUMNS), ["y"])
    return graph_bytes([node], columns, [("y", TensorProto.FLOAT, ["batch", 1])])


def echo_of_every_rank(element: int) -> bytes:
    """`y0` to `y3` like `x0` to `x3`, tensors of as many axes, all of open size; the first is a scalar."""
    shapes = {str(rank): [f"size_{rank}_{axis}" for axis in range(rank)] for rank in range(MAX_RANK + 1)}
    return graph_bytes(
        [helper.make_node("Identity", [f"x{rank}"], [f"y{rank}"]) for rank in shapes],
        [(f"x{rank}", element, shape) for rank, shape in shapes.items()],
        [(f"y{rank}", element, shape) for rank, shape in shapes.items()],
    )


@pytest.fixture(scope="session")
def echo_repository(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Path:
    """`echo-<datatype>` answer `y` like `x`, `tensors-<datatype>` likewise one tensor of every rank.

    `table` sums its 300 inputs, `log` answers infinity and NaN.
    `patient` waits for a fuller batch; `spare` and `spare-classifier` are not loaded at the start.
    """
    folder = tmp_path_factory.mktemp("echoes")
    for datatype in DATATYPES:
        content = one_node("Identity", ELEMENTS[datatype], ["batch", "width"])
        write_bare(folder, f"echo-{datatype.lower()}", content)
        write_bare(folder, f"tensors-{datatype.lower()}", echo_of_every_rank(ELEMENTS[datatype]))
    write_bare(folder, "table", table_bytes())
    write_bare(folder, "log", one_node("Log", TensorProto.FLOAT, ["batch", "width"]))
    write_bare(folder, "patient", scale_bytes(2.0))
    (folder / "patient" / "config.toml").write_text("max_queue_delay_seconds = 25\nmax_batch_size = 4\n")
    write_bare(folder, "spare", scale_bytes(3.0))
    network.write(folder, "tiny")
    network.write(folder, "spare-classifier")
    return folder


@pytest.fixture(scope="session")
def echo_service(echo_repository: Path) -> Iterator[RunningService]:
    """The real service with two API processes; tests must leave it as they found it."""
    names = [folder.name for folder in echo_repository.iterdir() if not folder.name.startswith("spare")]
    options = ("--model-control", "explicit", "--models", ",".join(sorted(names)))
    with RunningService(
        echo_repository,
        *options,
        "--workers",
        "2",
        "--instances",
        "1",
        "--threads",
        "1",
        "--max-body-bytes",
        str(MAX_BODY_BYTES),
    ) as running:
        yield running.wait_until_ready()


@pytest.fixture
def inference(echo_service: RunningService) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client."""
    with triton.InferenceServerClient(echo_service.grpc_address) as client:
        yield client


@pytest.fixture
def channel(echo_service: RunningService) -> Iterator[Any]:
    """A bare gRPC channel."""
    with grpc.insecure_channel(echo_service.grpc_address) as channel:
        yield channel
