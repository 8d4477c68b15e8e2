"""Requests and replies of the Open Inference Protocol: round trips of every datatype, and what is refused."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, MalformedRequest, ServiceError
from service.protocols.open_inference.reply import classify, write_reply
from service.protocols.open_inference.request import InferRequest, RequestedOutput, parse_request
from service.protocols.open_inference.tensors import ELEMENT_BYTES, Tensor, raw_tensor, unpack_strings

JSON_DATATYPES = sorted(set(NUMPY_DTYPES) - {"FP16", "BF16", "BYTES"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def arrays(datatype: str) -> st.SearchStrategy[Any]:
    """Finite arrays of a datatype, of any shape."""
    dtype = NUMPY_DTYPES[datatype]
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return hnp.arrays(dtype, SHAPES, elements=elements or None)


def described(array: np.ndarray[Any, Any], datatype: str, **members: Any) -> dict[str, Any]:
    """An input as a request tells it."""
    return {"name": "x", "shape": list(array.shape), "datatype": datatype} | members


def parsed(*inputs: dict[str, Any], raw: bytes | None = None, **members: Any) -> InferRequest:
    """The request with these inputs, the JSON followed by `raw` where it is given."""
    text = json.dumps({"inputs": list(inputs)} | members).encode()
    return parse_request(text + (raw or b""), None if raw is None else len(text))


def refused(*inputs: dict[str, Any], raw: bytes | None = None, **members: Any) -> str:
    """What the refusal of such a request says."""
    with pytest.raises(ServiceError) as caught:
        parsed(*inputs, raw=raw, **members)
    assert caught.value.status in (400, 422)
    return caught.value.message


@given(st.data(), st.sampled_from(JSON_DATATYPES), st.booleans())
def test_numbers_come_through_json_as_they_were(data: st.DataObject, datatype: str, is_nested: bool) -> None:
    array = data.draw(arrays(datatype))
    listed = array.tolist() if is_nested and array.ndim else array.reshape(-1).tolist()

    (tensor,) = parsed(described(array, datatype, data=listed)).inputs
    reply = write_reply("m", "1", InferRequest(inputs=()), [(RequestedOutput(name="x"), tensor)])

    assert (tensor.datatype, tensor.shape, bytes(tensor.raw)) == (datatype, array.shape, array.tobytes())
    answered = np.array(orjson.loads(reply.pieces[0])["outputs"][0]["data"], array.dtype).reshape(array.shape)
    assert np.array_equal(answered, array)


@given(st.data(), st.sampled_from(sorted(ELEMENT_BYTES)))
def test_numbers_come_through_raw_as_they_were(data: st.DataObject, datatype: str) -> None:
    array = data.draw(hnp.arrays(NUMPY_DTYPES[datatype], SHAPES))
    size = {"binary_data_size": array.nbytes}

    (tensor,) = parsed(described(array, datatype, parameters=size), raw=array.tobytes()).inputs
    wants = InferRequest(inputs=(), parameters={"binary_data_output": True})
    reply = write_reply("m", "1", wants, [(RequestedOutput(name="x"), tensor)])

    assert bytes(tensor.raw) == array.tobytes()
    head = orjson.loads(reply.pieces[0])
    assert reply.header_bytes == len(reply.pieces[0])
    assert head["outputs"] == [{"name": "x", "datatype": datatype, "shape": list(array.shape), "parameters": size}]
    assert b"".join(bytes(piece) for piece in reply.pieces[1:]) == array.tobytes()


@given(st.lists(st.text(), max_size=6))
def test_texts_come_through_json_as_they_were(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]

    (tensor,) = parsed({"name": "x", "shape": [len(texts)], "datatype": "BYTES", "data": texts}).inputs
    reply = write_reply("m", "1", InferRequest(inputs=()), [(RequestedOutput(name="x"), tensor)])

    assert [bytes(s).decode() for s in unpack_strings("x", tensor.raw, len(texts))] == texts
    assert orjson.loads(reply.pieces[0])["outputs"][0]["data"] == texts


@given(st.lists(st.binary(), max_size=6))
def test_bytes_come_through_raw_as_they_were(strings: list[bytes]) -> None:
    raw = pack_strings(strings)

    item = {"name": "x", "shape": [len(strings)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    (tensor,) = parsed(item, raw=raw).inputs

    assert [bytes(string) for string in unpack_strings("x", tensor.raw, len(strings))] == strings


@given(st.binary(max_size=40), st.integers(0, 4))
def test_bytes_that_are_no_strings_are_refused(raw: bytes, num_elements: int) -> None:
    with contextlib.suppress(InvalidParameter):
        strings = unpack_strings("x", raw, num_elements)
        assert len(strings) == num_elements
        assert pack_strings(bytes(string) for string in strings) == raw


def test_inputs_may_be_json_and_raw_in_one_request() -> None:
    first = {"name": "a", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}}
    second = {"name": "b", "shape": [1], "datatype": "INT8", "data": [-3]}
    third = {"name": "c", "shape": [1], "datatype": "BF16", "parameters": {"binary_data_size": 2}}

    request = parsed(first, second, third, raw=b"\x01\x02\x03\x04", id="7", parameters={"priority": 2, "timeout": 9})

    assert [bytes(tensor.raw) for tensor in request.inputs] == [b"\x01\x02", b"\xfd", b"\x03\x04"]
    assert (request.id, request.parameters) == ("7", {"priority": 2, "timeout": 9})


@pytest.mark.parametrize(
    ("datatype", "value", "why"),
    [
        ("INT8", 128, "cannot hold"),
        ("UINT8", 256, "cannot hold"),
        ("UINT8", -1, "whole numbers from 0 on"),
        ("INT32", 1.5, "whole numbers"),
        ("INT64", 2**63, "whole numbers"),
        ("FP32", 1e39, "cannot hold"),
        ("FP32", "1", "numbers"),
        ("FP32", None, "numbers"),
        ("BOOL", 1, "true or false"),
        ("BYTES", 1, "texts"),
        ("FP16", 1, "only as raw bytes"),
        ("BF16", 1, "only as raw bytes"),
        ("FLOAT", 1, "known are BOOL"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(datatype: str, value: Any, why: str) -> None:
    assert why in refused({"name": "x", "shape": [1], "datatype": datatype, "data": [value]})


@pytest.mark.parametrize(
    "shape", [[-1], [1.0], ["1"], [True], [2**63], [2**20, 2**20], [0, 2**31, 2**31], [1] * 33, [2]]
)
def test_a_shape_that_does_not_fit_is_refused(shape: list[Any]) -> None:
    assert "shape" in refused({"name": "x", "shape": shape, "datatype": "INT8", "data": [1]})


@pytest.mark.parametrize(
    ("size", "raw"), [(3, b"1234"), (5, b"1234"), (-1, b"1234"), ("4", b"1234"), (True, b"1"), (4, None)]
)
def test_raw_bytes_that_do_not_add_up_are_refused(size: Any, raw: bytes | None) -> None:
    item = {"name": "x", "shape": [4], "datatype": "UINT8", "parameters": {"binary_data_size": size}}

    assert "bytes" in refused(item, raw=raw)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"1",
        b"{}",
        b'{"inputs": 1}',
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": "x"}]}',
        b'{"inputs": [{"name": "x", "shape": 1, "datatype": "INT8", "data": []}]}',
        b'{"inputs": [], "outputs": 3}',
        b'{"inputs": [], "outputs": [{"name": 3}]}',
        b'{"inputs": [], "parameters": []}',
        b'{"inputs": [], "parameters": {"a": {}}}',
        b'{"inputs": [], "id": 4}',
        b'{"inputs": [], "parameters": {"binary_data_output": 1}}',
        b'{"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}',
        b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 0}}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [NaN]}]}',
        b'{"inputs": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
def test_a_request_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises((MalformedRequest, InvalidParameter)):
        parse_request(body, None)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_any_bytes_are_parsed_or_refused(body: bytes, header_bytes: int | None) -> None:
    with contextlib.suppress(MalformedRequest, InvalidParameter):
        assert isinstance(parse_request(body, header_bytes), InferRequest)


def test_what_json_cannot_say_is_refused_with_the_way_out() -> None:
    for tensor in (
        Tensor("y", "FP32", (1,), struct.pack("<f", float("nan"))),
        Tensor("y", "FP16", (1,), b"\0\0"),
        Tensor("y", "BYTES", (1,), pack_strings([b"\xff"])),
    ):
        with pytest.raises(InvalidParameter, match="binary_data"):
            write_reply("m", "1", InferRequest(inputs=()), [(RequestedOutput(name="y"), tensor)])


def test_scores_become_the_best_classes() -> None:
    scores = Tensor("y", "FP32", (2, 3), np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]], "<f4").tobytes())

    classes = classify(scores, 2, ("cat", "dog"))

    assert (classes.datatype, classes.shape) == ("BYTES", (2, 2))
    strings = [bytes(string).decode() for string in unpack_strings("y", classes.raw, 4)]
    assert strings == ["0.700000:1:dog", "0.200000:2", "0.500000:0:cat", "0.500000:2"]


@pytest.mark.parametrize("datatype", sorted(ELEMENT_BYTES))
def test_a_raw_tensor_of_another_length_is_refused(datatype: str) -> None:
    size = ELEMENT_BYTES[datatype]

    assert raw_tensor("x", datatype, [3], bytes(3 * size)).num_elements == 3
    with pytest.raises(InvalidParameter, match="has"):
        raw_tensor("x", datatype, [3], bytes(3 * size + 1))
