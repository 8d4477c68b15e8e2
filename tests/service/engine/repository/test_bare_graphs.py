"""A bare `model.onnx` is served as it is, batched only where that is proved, or refused with what to do."""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.config import ModelConfig
from service.engine.repository.loading import load_version
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device
from service.engine.transport.client import EngineClient
from service.errors import InvalidParameter
from service.settings import Settings
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, one_node, scale_bytes, write_bare
from tests.service.engine.live import ask, live_engine

CPU = Device("cpu")
SETTINGS = Settings(instances=1, threads=1)

Answers = dict[str, NDArray[Any]]
Serve = Callable[[bytes, Callable[[EngineClient], Awaitable[None]]], None]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serves an ONNX file as the model `bare` while a coroutine runs."""

    def run(content: bytes, work: Callable[[EngineClient], Awaitable[None]]) -> None:
        write_bare(tmp_path / "repository", "bare", content)
        settings = Settings(repository=(tmp_path / "repository",), instances=1, threads=1)

        async def main() -> None:
            async with live_engine(tmp_path / "engine.sock", settings) as (_, client):
                await work(client)

        asyncio.run(main())

    return run


async def whole(client: EngineClient, *tensors: NDArray[Any]) -> Answers:
    """What a graph that is not batched answers to whole tensors."""
    model = client.resolve("bare")
    assert not model.manifest.graphs["model"].is_batched
    names = tuple(spec.name for spec in model.manifest.graphs["model"].outputs)
    shapes = tuple(tensor.shape for tensor in tensors)
    payload = [np.ascontiguousarray(tensor).tobytes() for tensor in tensors]
    arrays, _ = await client.infer(model, "model", names, payload, 1, 20.0, row_shapes=shapes)
    return arrays


def loaded_graph(tmp_path: Path, content: bytes) -> Any:
    return load_version(write_bare(tmp_path, "bare", content), SETTINGS, CPU).graphs["model"]


def rejection_of(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(VersionRejected) as caught:
        load_version(write_bare(tmp_path, "bare", content), SETTINGS, CPU)
    return str(caught.value)


def test_rows_of_a_graph_with_an_open_first_axis_are_batched(tmp_path: Path) -> None:
    loaded = load_version(write_bare(tmp_path, "bare", scale_bytes(2)), SETTINGS, CPU)

    graph = loaded.manifest.graphs["model"]
    assert (loaded.manifest.task, graph.is_batched) == ("tensors", True)
    assert [(s.name, s.datatype, s.shape) for s in graph.inputs] == [("x", "FP32", (-1, 3))]
    assert loaded.graphs["model"].batching.buckets == (1, 2, 4, 8, 16, 32)
    assert loaded.golden_error is None  # nothing to verify it with


def test_rows_that_depend_on_each_other_are_never_batched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    centred = graph_bytes(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [("x", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3])],
        {"axes": np.array([0], np.int64)},
    )

    graph = loaded_graph(tmp_path, centred)

    assert not graph.graph.is_batched
    assert graph.batching.max_batch_size == 1
    [record] = [r for r in caplog.records if r.message == "requests are not batched"]
    assert "ReduceMean" in record.__dict__["reason"]


@pytest.mark.parametrize(
    ("shape", "output", "operator", "attributes"),
    [
        (["n", "n"], ["n", "n"], "Transpose", {}),
        ([2, 3], [3, 2], "Transpose", {}),
        (["n", 3], [3, "n"], "Transpose", {}),
        (["n", 3], ["m", "k"], "Flatten", {"axis": 0}),
    ],
)
def test_graphs_without_an_axis_for_rows_take_whole_tensors(
    serve: Serve, shape: list[Any], output: list[Any], operator: str, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    content = graph_bytes([node], [("x", FLOAT, shape)], [("y", FLOAT, output)])
    x = np.arange(6 if shape != ["n", "n"] else 9, dtype=np.float32).reshape(-1, 3)
    expected = x.T if operator == "Transpose" else x.reshape(1, -1)

    async def work(client: EngineClient) -> None:
        assert np.array_equal((await whole(client, x))["y"], expected)

    serve(content, work)


def test_scalars_and_tensors_without_elements_are_served(serve: Serve) -> None:
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("Shape", ["x"], ["size"])]
    content = graph_bytes(
        nodes,
        [("x", FLOAT, ["n"]), ("factor", FLOAT, [])],
        [("y", FLOAT, ["n"]), ("size", TensorProto.INT64, [1])],
    )

    async def work(client: EngineClient) -> None:
        factor = np.array(3, np.float32)
        for count in (2, 0):
            x = np.arange(count, dtype=np.float32)
            answers = await whole(client, x, factor)
            assert np.array_equal(answers["y"], 3 * x)
            assert answers["size"].tolist() == [count]

    serve(content, work)


def test_a_scalar_goes_in_and_comes_out(serve: Serve) -> None:
    async def work(client: EngineClient) -> None:
        answers = await whole(client, np.array(2.5, np.float32))
        assert (answers["y"].shape, float(answers["y"])) == ((), -2.5)

    serve(one_node("Neg", FLOAT, []), work)


def test_texts_are_carried_both_ways(serve: Serve) -> None:
    texts = ["", "snow ☃", "a\0b"]
    payload = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)

    async def work(client: EngineClient) -> None:
        model = client.resolve("bare")

        def send(content: bytes, count: int) -> Any:
            return client.infer(model, "model", ("y",), [content], 1, 20.0, row_shapes=((count,),))

        arrays, _ = await send(payload, 3)
        assert arrays["y"].tolist() == [text.encode() for text in texts]
        for broken, count in ((payload, 2), (payload, 4), (payload[:-1], 3), (b"\1\0\0\0\xff", 1)):
            with pytest.raises(InvalidParameter):
                await send(broken, count)

    serve(one_node("Identity", TensorProto.STRING, ["n"]), work)


def test_bits_of_bf16_are_carried_both_ways_and_batched(serve: Serve) -> None:
    values = np.array([[1.0, -2.5, 0.0], [3.0, 4.0, 1024.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    content = graph_bytes(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
            helper.make_node("Add", ["wide", "wide"], ["twice"]),
            helper.make_node("Cast", ["twice"], ["y"], to=TensorProto.BFLOAT16),
        ],
        [("x", TensorProto.BFLOAT16, ["n", 3])],
        [("y", TensorProto.BFLOAT16, ["n", 3])],
    )

    async def work(client: EngineClient) -> None:
        assert client.resolve("bare").manifest.graphs["model"].is_batched
        answer = await ask(client, "bare", bits)
        assert answer.dtype == np.uint16
        assert np.array_equal((answer.astype(np.uint32) << 16).view(np.float32), 2 * values)

    serve(content, work)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.BOOL, np.bool_),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.UINT16, np.uint16),
        (TensorProto.UINT32, np.uint32),
        (TensorProto.UINT64, np.uint64),
        (TensorProto.INT8, np.int8),
        (TensorProto.INT16, np.int16),
        (TensorProto.INT32, np.int32),
        (TensorProto.INT64, np.int64),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
    ],
)
def test_every_datatype_of_numbers_is_served(serve: Serve, element: int, dtype: Any) -> None:
    x = np.array([[0, 1], [1, 1], [0, 0]]).astype(dtype)

    async def work(client: EngineClient) -> None:
        answer = await ask(client, "bare", x)
        assert answer.dtype == x.dtype
        assert np.array_equal(answer, x)

    serve(one_node("Identity", element, ["n", 2]), work)


def test_what_is_no_number_is_the_callers_affair(serve: Serve) -> None:
    x = np.array([[-1.0, 4.0]], np.float32)

    async def work(client: EngineClient) -> None:
        answer = await ask(client, "bare", x)
        assert np.isnan(answer[0, 0])
        assert answer[0, 1] == 2

    serve(one_node("Sqrt", FLOAT, ["n", 2]), work)


def test_sizes_that_vary_beside_the_rows_are_stated_by_each_request(serve: Serve) -> None:
    async def work(client: EngineClient) -> None:
        for size in (1, 5, 300):
            x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
            assert np.array_equal(await ask(client, "bare", x, row_shapes=((size,),)), -x)

    serve(one_node("Neg", FLOAT, ["n", "length"]), work)


def test_an_input_with_a_default_may_be_left_out(serve: Serve) -> None:
    content = graph_bytes(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", FLOAT, ["n", 3]), ("factor", FLOAT, [])],
        [("y", FLOAT, ["n", 3])],
        {"factor": np.float32(6)},
    )
    x = np.ones((2, 3), np.float32)

    async def work(client: EngineClient) -> None:
        assert [spec.name for spec in client.resolve("bare").manifest.graphs["model"].inputs] == ["x"]
        assert np.array_equal(await ask(client, "bare", x), 6 * x)

    serve(content, work)


def test_a_graph_that_takes_no_made_up_input_is_served_without_batches(serve: Serve) -> None:
    content = graph_bytes(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, [7, 11])],
        {"shape": np.array([7, 11], np.int64)},
    )
    x = np.arange(77, dtype=np.float32)

    async def work(client: EngineClient) -> None:
        assert np.array_equal((await whole(client, x))["y"], x.reshape(7, 11))

    serve(content, work)


def of_domain(domain: str, version: int | None = None) -> bytes:
    """A graph of an operator that the runtime does not have, with or without its domain's version."""
    node = helper.make_node("MyOp", ["x"], ["y"], domain=domain)
    value = [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", 17)]
    if version is not None:
        opsets.append(helper.make_opsetid(domain, version))
    model = helper.make_model(
        helper.make_graph([node], "own", value[:1], value[1:]), opset_imports=opsets, ir_version=8
    )
    content: bytes = model.SerializeToString()
    return content


def ort_format(content: bytes) -> bytes:
    """The same network in ONNX Runtime's own format."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.NamedTemporaryFile(suffix=".ort") as file:
        options.optimized_model_filepath = file.name
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return Path(file.name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no graph", "ONNX Runtime cannot load the graph"),
        (one_node("Neg", FLOAT, ["n"]).replace(b"Neg", b"Nix"), "operator that ONNX Runtime does not have"),
        (of_domain("my.ops", 1), "operator that ONNX Runtime does not have.*my.ops:MyOp"),
        (of_domain("my.ops"), "operator that ONNX Runtime does not have"),
        (of_domain("com.microsoft", 1), "operator that ONNX Runtime does not have"),
        (of_domain("ai.onnx.contrib", 1), "operator that ONNX Runtime does not have"),
        (one_node("Neg", FLOAT, ["n"])[:-9], "ends too early"),
        (
            graph_bytes([helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])], opset=99),
            "opset is newer",
        ),
        (
            graph_bytes(
                [helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])], ir_version=99
            ),
            "older ir_version",
        ),
        (
            helper.make_model(
                helper.make_graph(
                    [helper.make_node("SequenceConstruct", ["x"], ["y"])],
                    "sequence",
                    [helper.make_tensor_value_info("x", FLOAT, [1])],
                    [helper.make_tensor_sequence_value_info("y", FLOAT, [1])],
                ),
                opset_imports=[helper.make_opsetid("", 20)],
                ir_version=10,
            ).SerializeToString(),
            r"'y' is seq\(tensor\(float\)\), which a request cannot carry; export the graph with tensors",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(VersionRejected, match=message):
        load_version(write_bare(tmp_path, "bare", content), SETTINGS, CPU)


def external_bytes(location: str) -> tuple[bytes, bytes]:
    """`y = x + w` whose `w`, 0 to 399, is in a file of its own; the graph and that file."""
    weights = np.arange(400, dtype=np.float32)
    model = onnx.load_from_string(
        graph_bytes(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            [("x", FLOAT, ["n", 400])],
            [("y", FLOAT, ["n", 400])],
            {"w": weights},
        )
    )
    tensor = model.graph.initializer[0]
    content = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString(), content


@pytest.mark.parametrize("location", ["weights.bin", "parts/weights.bin"])
def test_weights_in_a_file_of_the_same_folder_are_read(serve: Serve, tmp_path: Path, location: str) -> None:
    content, weights = external_bytes(location)
    file = tmp_path / "repository" / "bare" / "1" / location
    file.parent.mkdir(parents=True)
    file.write_bytes(weights)
    x = np.ones((2, 400), np.float32)

    async def work(client: EngineClient) -> None:
        assert np.array_equal(await ask(client, "bare", x), x + np.arange(400, dtype=np.float32))

    serve(content, work)


@pytest.mark.parametrize("is_bare", [True, False])
@pytest.mark.parametrize("name", ["model.ort", "model.onnx"])
def test_the_runtimes_own_format_is_served_whatever_its_name(
    serve: Serve, tmp_path: Path, name: str, is_bare: bool
) -> None:
    content = ort_format(scale_bytes(2))
    folder = tmp_path / "repository" / "own" / ("" if is_bare else "1")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)

    async def work(client: EngineClient) -> None:
        x = np.ones((2, 3), np.float32)
        assert np.array_equal(await ask(client, "own@1", x), 2 * x)

    serve(scale_bytes(1), work)


def test_a_cut_file_in_the_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    folder = write_bare(tmp_path, "bare", ort_format(scale_bytes(2))[:300])

    with pytest.raises(VersionRejected, match="the file is damaged, or cut short: copy it again"):
        load_version(folder, SETTINGS, CPU)


def test_a_model_without_a_version_folder_is_version_1_with_its_weights_and_configuration(
    serve: Serve, tmp_path: Path
) -> None:
    content, weights = external_bytes("w/weights.bin")
    folder = tmp_path / "repository" / "Own"
    (folder / "w").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "w" / "weights.bin").write_bytes(weights)
    (folder / "config.toml").write_text("max_batch_size = 3\n")

    async def work(client: EngineClient) -> None:
        x = np.ones((2, 400), np.float32)
        assert np.array_equal(await ask(client, "Own@1", x), x + np.arange(400, dtype=np.float32))
        assert client.resolve("Own").status.max_batch_size == 3
        assert client.resolve("Own").folder == folder

    serve(scale_bytes(1), work)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "its external data 'weights.bin' is missing"),
        (b"version https://git-lfs.github.com/spec/v1", "weights.bin is a Git LFS pointer, not its content"),
        (bytes(10), "its external data is cut short"),
    ],
)
def test_weights_that_are_not_there_are_named(tmp_path: Path, weights: bytes | None, message: str) -> None:
    folder = write_bare(tmp_path, "bare", external_bytes("weights.bin")[0])
    if weights is not None:
        (folder / "weights.bin").write_bytes(weights)

    with pytest.raises(VersionRejected, match=message):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize("way", ["up", "absolute", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, way: str) -> None:
    outside = tmp_path / "outside.bin"
    location = {"up": "../../../outside.bin", "absolute": str(outside), "link": "inside.bin"}[way]
    content, weights = external_bytes(location)
    outside.write_bytes(weights)
    folder = write_bare(tmp_path / "repository", "bare", content)
    if way == "link":
        (folder / "inside.bin").symlink_to(outside)

    with pytest.raises(VersionRejected, match="external data must be files in its own folder"):
        load_version(folder, SETTINGS, CPU)


DROPS_ROWS = graph_bytes(
    [
        helper.make_node("ReduceMax", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "least"], ["c"]),
        helper.make_node("Compress", ["x", "c"], ["y"], axis=0),
    ],
    [("x", FLOAT, ["n", 2])],
    [("y", FLOAT, ["m", 2])],
    {"axes": np.array([1], np.int64), "least": np.array(-50, np.float32)},
)


def test_a_graph_that_drops_rows_never_gives_one_caller_the_rows_of_another(tmp_path: Path) -> None:
    folder = write_bare(tmp_path / "repository", "bare", DROPS_ROWS)
    # The operator of this configuration is wrong, and still nobody gets a wrong row.
    (folder.parent / "config.toml").write_text("batched = true\n")
    settings = Settings(repository=(tmp_path / "repository",), instances=1, threads=1, max_queue_delay_seconds=0.2)

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings) as (_, client):
            assert client.resolve("bare").manifest.graphs["model"].is_batched
            values = [float(i) if i % 2 else -100.0 - i for i in range(12)]
            rows = [np.full((1, 2), value, np.float32) for value in values]
            answers = await asyncio.gather(*(ask(client, "bare", row) for row in rows))
            assert [a.tolist() for a in answers] == [r.tolist() if r[0, 0] > -50 else [] for r in rows]
            [status] = await client.describe()
            assert not status.batching["model"].is_batched
            assert "'y' has the shape" in status.batching["model"].reason
            assert (await ask(client, "bare", np.array([[1, 2], [-99, -99]], np.float32))).tolist() == [[1, 2]]

    asyncio.run(main())


def test_a_request_without_rows_is_answered_with_none(serve: Serve) -> None:
    async def work(client: EngineClient) -> None:
        assert client.resolve("bare").manifest.graphs["model"].is_batched
        assert (await ask(client, "bare", np.zeros((0, 3), np.float32))).shape == (0, 3)
        assert (await ask(client, "bare", np.ones((2, 3), np.float32))).tolist() == [[-1, -1, -1]] * 2

    serve(one_node("Neg", FLOAT, ["n", 3]), work)


def test_a_graph_without_inputs_is_served(serve: Serve) -> None:
    value = numpy_helper.from_array(np.arange(3, dtype=np.float32))
    constant = graph_bytes([helper.make_node("Constant", [], ["y"], value=value)], [], [("y", FLOAT, [3])])

    async def work(client: EngineClient) -> None:
        assert (await whole(client))["y"].tolist() == [0, 1, 2]

    serve(constant, work)


def test_a_large_request_to_a_graph_that_was_tried_with_little_is_computed(serve: Serve) -> None:
    async def work(client: EngineClient) -> None:
        x = np.ones(1_000_000, np.float32)
        model = client.resolve("bare")
        arrays, _ = await client.infer(model, "model", ("y",), [x.tobytes()], 1, 1.0, row_shapes=(x.shape,))
        assert np.array_equal(arrays["y"], -x)

    serve(one_node("Neg", FLOAT, ["n"]), work)


def test_the_configuration_keeps_requests_apart(tmp_path: Path) -> None:
    folder = write_bare(tmp_path, "bare", scale_bytes(2))

    graph = load_version(folder, SETTINGS, CPU, ModelConfig(batched=False)).graphs["model"]

    assert (graph.is_batched, graph.batching.max_batch_size, graph.batching_reason) == (False, 1, "config.toml says so")


def test_batches_are_no_larger_than_the_memory_for_their_rows(tmp_path: Path) -> None:
    wide = graph_bytes(
        [
            helper.make_node("Expand", ["x", "shape"], ["e"]),
            helper.make_node("Softmax", ["e"], ["s"], axis=-1),
            helper.make_node("ReduceSum", ["s", "axes"], ["y"], keepdims=0),
        ],
        [("x", FLOAT, ["n", 1, 4])],
        [("y", FLOAT, ["n", 4])],
        {"shape": np.array([1, 500_000, 4], np.int64), "axes": np.array([1], np.int64)},
    )
    folder = write_bare(tmp_path, "bare", wide)

    graph = load_version(folder, SETTINGS.model_copy(update={"load_memory_bytes": 2**28}), CPU).graphs["model"]

    assert graph.is_batched
    assert 2 <= graph.batching.max_batch_size < 32
