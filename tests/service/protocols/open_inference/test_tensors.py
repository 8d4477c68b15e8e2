"""Tensors of every datatype and shape through the real service and back, in JSON, raw and over gRPC."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from math import prod
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.messages import CONTENTS
from service.protocols.open_inference.tensors import DATATYPES, ELEMENT_BYTES, RAW_ONLY, Tensor, unpack_strings
from tests.servers import RunningService
from tests.service.protocols.conftest import MAX_RANK, TABLE_COLUMNS
from tests.service.protocols.open_inference.calls import LENGTH, assert_error

TYPED = [datatype for datatype in DATATYPES if datatype in CONTENTS]


@pytest.fixture(scope="module")
def http(echo_service: RunningService) -> Iterator[httpx.Client]:
    """One connection to the service."""
    with httpx.Client(base_url=echo_service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def infer(echo_service: RunningService) -> Iterator[Any]:
    """ModelInfer, in bytes."""
    with grpc.insecure_channel(echo_service.grpc_address) as channel:
        yield channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


@st.composite
def tensors(draw: st.DrawFn, datatype: str, *, is_text: bool = False) -> list[Tensor]:
    """One tensor of every rank, with any bits for elements or, of BYTES, any strings (`is_text`: that JSON can say)."""
    drawn = []
    for rank in range(MAX_RANK + 1):
        shape = tuple(draw(st.lists(st.integers(0, 3), min_size=rank, max_size=rank)))
        size = prod(shape)
        if datatype == "BYTES":
            texts = st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace"))
            # The graph's strings are texts of UTF-8, whatever carries them.
            raw = pack_strings(draw(st.lists(texts, min_size=size, max_size=size)))
        elif datatype == "BOOL":
            raw = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
        elif is_text and datatype.startswith("FP"):
            # No NaN: it has many forms in bits, and one in JSON.
            floats = st.floats(width=32 if datatype == "FP32" else 64, allow_nan=False)
            values = draw(st.lists(floats, min_size=size, max_size=size))
            raw = np.array(values, NUMPY_DTYPES[datatype]).tobytes()
        else:
            num_bytes = size * ELEMENT_BYTES[datatype]
            raw = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
        drawn.append(Tensor(f"x{rank}", datatype, shape, raw))
    return drawn


def values_of(tensor: Tensor) -> list[Any]:
    """The elements as Python has them."""
    if tensor.datatype == "BYTES":
        return [bytes(string) for string in unpack_strings("", tensor.raw, tensor.num_elements)]
    values: list[Any] = np.frombuffer(tensor.raw, NUMPY_DTYPES[tensor.datatype]).tolist()
    return values


def in_json(tensor: Tensor) -> dict[str, Any]:
    """A tensor as an input whose elements are JSON, flat."""
    names = {math.inf: "Infinity", -math.inf: "-Infinity"}
    data = [value.decode() if isinstance(value, bytes) else names.get(value, value) for value in values_of(tensor)]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data}


def in_raw(sent: list[Tensor], **members: Any) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request with raw tensors."""
    inputs = [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "parameters": {"binary_data_size": len(t.raw)}}
        for t in sent
    ]
    text = json.dumps({"inputs": inputs} | members).encode()
    return text + b"".join(bytes(t.raw) for t in sent), {LENGTH: str(len(text))}


def answered(response: httpx.Response) -> list[Tensor]:
    """The outputs of an answer under the names of their inputs."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    raw, found = response.content[length:], []
    for output in json.loads(response.content[:length])["outputs"]:
        if "data" in output and output["datatype"] == "BYTES":
            content = pack_strings(text.encode() for text in output["data"])
        elif "data" in output:
            content = np.array(output["data"], NUMPY_DTYPES[output["datatype"]]).tobytes()
        else:
            size = output["parameters"]["binary_data_size"]
            content, raw = raw[:size], raw[size:]
        found.append(Tensor(output["name"].replace("y", "x"), output["datatype"], tuple(output["shape"]), content))
    assert raw == b""
    return found


def message(model: str, sent: list[Tensor], *, is_typed: bool) -> bytes:
    """The request over gRPC, raw or with typed contents."""
    request = pb.ModelInferRequest(model_name=model)
    for tensor in sent:
        item = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if is_typed:
            getattr(item.contents, CONTENTS[tensor.datatype]).extend(values_of(tensor))
        else:
            request.raw_input_contents.append(bytes(tensor.raw))
    return bytes(request.SerializeToString())


def told(answer: bytes) -> list[Tensor]:
    """The outputs of an answer over gRPC under the names of their inputs."""
    response = pb.ModelInferResponse.FromString(answer)
    return [
        Tensor(output.name.replace("y", "x"), output.datatype, tuple(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    ]


every_example = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("datatype", DATATYPES)
@every_example
@given(data=st.data())
def test_raw_tensors_come_back_as_they_were(http: httpx.Client, infer: Any, datatype: str, data: st.DataObject) -> None:
    sent = data.draw(tensors(datatype))
    model = f"tensors-{datatype.lower()}"
    body, headers = in_raw(sent, parameters={"binary_data_output": True})

    assert answered(http.post(f"/v2/models/{model}/infer", content=body, headers=headers)) == sent
    assert told(infer(message(model, sent, is_typed=False), timeout=30)) == sent


@pytest.mark.parametrize("datatype", TYPED)
@every_example
@given(data=st.data())
def test_elements_in_json_and_typed_contents_come_back_as_they_were(
    http: httpx.Client, infer: Any, datatype: str, data: st.DataObject
) -> None:
    sent = data.draw(tensors(datatype, is_text=True))
    model = f"tensors-{datatype.lower()}"

    assert answered(http.post(f"/v2/models/{model}/infer", json={"inputs": [in_json(t) for t in sent]})) == sent
    assert told(infer(message(model, sent, is_typed=True), timeout=30)) == sent


@pytest.mark.parametrize("datatype", DATATYPES)
def test_rows_are_batched_and_come_back_as_they_were(http: httpx.Client, datatype: str) -> None:
    raw = pack_strings(b"%d" % n for n in range(10)) if datatype == "BYTES" else bytes([1, 0] * 80)
    shape = (5, 2) if datatype == "BYTES" else (5, 32 // ELEMENT_BYTES[datatype])
    body, headers = in_raw([Tensor("x", datatype, shape, raw)], parameters={"binary_data_output": True})

    found = answered(http.post(f"/v2/models/echo-{datatype.lower()}/infer", content=body, headers=headers))

    assert found == [Tensor("x", datatype, shape, raw)]


def test_what_is_no_json_number_is_a_string_in_both_directions(http: httpx.Client) -> None:
    def asked(model: str, data: list[Any], **members: Any) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(data)], "data": data}
        return http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **members})

    computed = asked("log", [1.0, 0.0, -1.0])
    echoed = asked("echo-fp32", ["Infinity", 0.1, "NaN", 10**20, "-Infinity"])
    raw = asked("log", [0.0, "Infinity"], parameters={"binary_data_output": True})

    assert computed.status_code == 200
    assert computed.json()["outputs"][0]["data"] == [0.0, "-Infinity", "NaN"]
    assert echoed.json()["outputs"][0]["data"] == ["Infinity", 0.1, "NaN", 1e20, "-Infinity"]
    assert np.frombuffer(answered(raw)[0].raw, "<f4").tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize("form", ["JSON", "raw", "typed", "raw over gRPC"])
def test_a_model_of_three_hundred_inputs_is_called_like_any_other(http: httpx.Client, infer: Any, form: str) -> None:
    rows = np.arange(2, dtype="<f4").reshape(2, 1)
    sent = [Tensor(name, "FP32", (2, 1), (rows + at).tobytes()) for at, name in enumerate(TABLE_COLUMNS)]
    asked = [{"name": "y"}]

    if form == "JSON":
        found = answered(http.post("/v2/models/table/infer", json={"inputs": [*map(in_json, sent)], "outputs": asked}))
    elif form == "raw":
        body, headers = in_raw(sent, outputs=asked)
        found = answered(http.post("/v2/models/table/infer", content=body, headers=headers))
    else:
        found = told(infer(message("table", sent, is_typed=form == "typed"), timeout=30))

    (y,) = found
    assert np.frombuffer(y.raw, "<f4").tolist() == [44850.0, 45150.0]


def test_of_three_hundred_missing_inputs_the_first_few_are_named(http: httpx.Client) -> None:
    refused = http.post("/v2/models/table/infer", json={"inputs": []})

    assert_error(refused, 400, "'column_0'", "and 284 more are missing")
    assert len(refused.content) < 1000


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_half_precision_has_no_form_in_json(http: httpx.Client, datatype: str) -> None:
    infer = f"/v2/models/echo-{datatype.lower()}/infer"
    given_in_json = {"name": "x", "datatype": datatype, "shape": [1, 1], "data": [1.0]}
    body, headers = in_raw([Tensor("x", datatype, (1, 1), b"\0\0")])

    assert_error(http.post(infer, json={"inputs": [given_in_json]}), 400, "only as raw bytes")
    assert_error(http.post(infer, content=body, headers=headers), 400, "request it with binary_data")


def test_strings_that_are_no_texts_are_refused(http: httpx.Client) -> None:
    body, headers = in_raw([Tensor("x", "BYTES", (1, 1), pack_strings([b"\xff\0"]))])

    assert_error(http.post("/v2/models/echo-bytes/infer", content=body, headers=headers), 400, "UTF-8")


def test_a_scalar_and_nothing_have_their_shapes_in_the_metadata(http: httpx.Client) -> None:
    metadata = http.get("/v2/models/tensors-fp32").json()
    config = http.get("/v2/models/tensors-fp32/config").json()

    assert [tensor["shape"] for tensor in metadata["inputs"]] == [[], [-1], [-1, -1], [-1, -1, -1]]
    assert [each["dims"] for each in config["output"]] == [[], [-1], [-1, -1], [-1, -1, -1]]
    assert config["max_batch_size"] == 0


def test_a_batch_may_have_no_rows_and_a_row_no_elements(http: httpx.Client) -> None:
    def asked(shape: list[int]) -> httpx.Response:
        return http.post(
            "/v2/models/echo-fp32/infer",
            json={"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": []}]},
        )

    assert [tensor.shape for tensor in answered(asked([0, 3]))] == [(0, 3)]
    assert [tensor.shape for tensor in answered(asked([3, 0]))] == [(3, 0)]
