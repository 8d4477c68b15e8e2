"""Requests and replies of the Open Inference Protocol: round trips of every datatype, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.manifest import NUMPY_DTYPES, TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, MalformedRequest, ServiceError
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.inputs import MAX_TENSORS, ModelInputs
from service.protocols.open_inference.reply import classify, write_reply
from service.protocols.open_inference.request import (
    InferRequest,
    RequestedOutput,
    parse_request,
)
from service.protocols.open_inference.tensors import ELEMENT_BYTES, Declared, Tensor, raw_tensor, unpack_strings
from tests.service.protocols.open_inference.manifests import ANY_MODEL, graph_of

JSON_DATATYPES = sorted(set(NUMPY_DTYPES) - {"FP16", "BF16", "BYTES"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def named(value: Any) -> Any:
    """An element as JSON has it: what is no number by its name."""
    if value != value:
        return "NaN"
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, value) if isinstance(value, float) else value


def nested(array: np.ndarray[Any, Any]) -> Any:
    """The elements as nested lists."""
    return [nested(part) for part in array] if array.ndim else named(array.item())


def described(array: np.ndarray[Any, Any], datatype: str, **members: Any) -> dict[str, Any]:
    """An input as a request tells it."""
    return {"name": "x", "shape": list(array.shape), "datatype": datatype} | members


def parsed(*inputs: dict[str, Any], raw: bytes | None = None, **members: Any) -> InferRequest:
    """The request with these inputs, the JSON followed by `raw` where it is given."""
    text = json.dumps({"inputs": list(inputs)} | members).encode()
    return parse_request(text + (raw or b""), None if raw is None else len(text), ANY_MODEL)


def refused(*inputs: dict[str, Any], raw: bytes | None = None, **members: Any) -> str:
    """What the refusal of such a request says."""
    with pytest.raises(ServiceError) as caught:
        parsed(*inputs, raw=raw, **members)
    assert caught.value.status in (400, 422)
    return caught.value.message


@given(st.data(), st.sampled_from(JSON_DATATYPES), st.booleans())
def test_numbers_come_through_json_as_they_were(data: st.DataObject, datatype: str, is_nested: bool) -> None:
    array = data.draw(hnp.arrays(NUMPY_DTYPES[datatype], SHAPES))
    listed = nested(array if is_nested and array.ndim else array.reshape(-1))

    (tensor,) = parsed(described(array, datatype, data=listed)).inputs
    reply = write_reply("m", "1", InferRequest(inputs=()), [(RequestedOutput(name="x"), tensor)])

    assert (tensor.datatype, tensor.shape) == (datatype, array.shape)
    np.testing.assert_array_equal(np.frombuffer(tensor.raw, array.dtype).reshape(array.shape), array)
    answered = orjson.loads(reply.pieces[0])["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(answered, array.dtype).reshape(array.shape), array)
    assert [value for value in answered if isinstance(value, str)] == [
        named(value) for value in array.reshape(-1).tolist() if isinstance(named(value), str)
    ]


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


WIDE = st.integers(-(10**40), 10**40) | st.integers(2**63 - 3, 2**64 + 3) | st.integers(-(2**63) - 3, -(2**63) + 3)
AROUND = st.text('"\\\\0123456789eE.-,:[]{}x \u00e9', max_size=60)


@given(st.lists(WIDE | st.floats(allow_nan=False, allow_infinity=False), max_size=6), AROUND)
def test_numbers_of_any_length_are_numbers(values: list[float], text: str) -> None:
    item = {"name": f"x{text}", "shape": [len(values)], "datatype": "FP64", "data": values}

    request = parsed(item, parameters={text: 10**25})

    assert np.frombuffer(request.inputs[0].raw).tolist() == [float(value) for value in values]
    assert (request.inputs[0].name, request.parameters) == (f"x{text}", {text: 1e25})


def test_whole_numbers_of_64_bits_stay_exact_beside_longer_ones() -> None:
    signed, unsigned = [-(2**63), 2**63 - 1, 1234567890123456789], [0, 2**64 - 1, 10**19 - 1]
    texts = ["1" + 30 * "0", '"1' + 30 * "0"]

    request = parsed(
        {"name": "a", "shape": [3], "datatype": "INT64", "data": signed},
        {"name": "b", "shape": [3], "datatype": "UINT64", "data": unsigned},
        {"name": "c", "shape": [2], "datatype": "BYTES", "data": texts},
        {"name": "d", "shape": [1], "datatype": "FP32", "data": [10**30]},
    )

    a, b, c, d = request.inputs
    assert (np.frombuffer(a.raw, "<i8").tolist(), np.frombuffer(b.raw, "<u8").tolist()) == (signed, unsigned)
    assert [bytes(string).decode() for string in unpack_strings("c", c.raw, 2)] == texts
    assert np.frombuffer(d.raw, "<f4").tolist() == [float(np.float32(1e30))]


@pytest.mark.parametrize("number", ["1e400", "-1e999", "2.5E+308", "1" + 400 * "0", "-1" + 309 * "0"])
def test_a_number_beyond_doubles_is_named(number: str) -> None:
    body = b'{"inputs": [{"name": "1e500", "shape": [1], "datatype": "FP64", "data": [%b]}]}' % number.encode()

    with pytest.raises(InvalidParameter, match=re.escape(number.lstrip("-")[:20])):
        parse_request(body, None, ANY_MODEL)


@pytest.mark.parametrize(
    "number", ["00000000000000000000001", "+100000000000000000000", "--100000000000000000000", "1."]
)
def test_what_is_no_number_stays_none(number: str) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [10000000000000000000000, %b]}]}'

    with pytest.raises(MalformedRequest):
        parse_request(body % number.encode(), None, ANY_MODEL)


@pytest.mark.parametrize(
    "text",
    [
        b"1e300," * 300_000,
        b'"",' * 1_000_000,
        b'"\\"' * 500_000,
        b"1." * 1_000_000,
        b"-" * 1_000_000,
        b"1" * 4_000_000,
        b"10000000000000000000," * 50_000,
        b"0." + b"1" * 4_000_000,
    ],
    ids=lambda text: text[:6].decode(),
)
def test_the_time_for_a_number_that_the_parser_does_not_take_is_linear(text: bytes) -> None:
    began = time.process_time()
    for end in (b"1]}", b"100000000000000000000000]}", b"1e999"):
        with contextlib.suppress(MalformedRequest, InvalidParameter):
            parse_request(b'{"inputs": [100000000000000000000,' + text + end, None, ANY_MODEL)

    assert time.process_time() - began < 10  # it takes a second; square, it would take hours


@pytest.mark.parametrize(("datatype", "element"), [("BYTES", "a"), ("BOOL", True), ("FP32", "NaN"), ("FP32", 1.5)])
def test_elements_may_lie_as_deep_as_the_parser_goes(datatype: str, element: Any) -> None:
    data: Any = element
    for _ in range(900):
        data = [data]

    assert parsed({"name": "x", "shape": [1], "datatype": datatype, "data": data}).inputs[0].num_elements == 1


def test_a_request_may_name_as_many_tensors_as_the_model_has() -> None:
    inputs = tuple(TensorSpec(name=f"x{at}", datatype="FP32", shape=(-1, 1)) for at in range(MAX_TENSORS + 1))
    manifest = SimpleNamespace(graphs={"model": graph_of(inputs)}, task="tensors")
    model = ModelInputs(Target(SimpleNamespace(manifest=manifest), "model"), 64)  # type: ignore[arg-type]
    items = [{"name": spec.name, "shape": [1, 1], "datatype": "FP32", "data": [1]} for spec in inputs]
    body = json.dumps({"inputs": items}).encode()

    assert len(parse_request(body, None, model).inputs) == MAX_TENSORS + 1
    with pytest.raises(MalformedRequest, match=f"up to {MAX_TENSORS}"):
        parse_request(body, None, ANY_MODEL)


def test_a_name_that_is_given_twice_among_thousands_is_found_at_once() -> None:
    items = [{"name": f"x{at % 4000}", "shape": [0], "datatype": "FP32", "data": []} for at in range(4096)]
    began = time.process_time()

    message = refused(*items)

    assert "more than once" in message
    assert len(message) < 500
    assert time.process_time() - began < 2


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
        ("UINT8", -1, "element 0 is -1, which UINT8 cannot hold"),
        ("INT32", 1.5, "element 0 is 1.5; INT32 must be whole numbers"),
        ("INT64", 2**63, "element 0 is 9223372036854775808, which INT64 cannot hold"),
        ("UINT64", 2**64, "element 0 is 18446744073709551616, which UINT64 cannot hold"),
        ("UINT64", -1, "element 0 is -1, which UINT64 cannot hold"),
        ("INT8", 10**20, "element 0 is 100000000000000000000, which INT8 cannot hold"),
        ("INT32", -(10**19), "element 0 is -10000000000000000000, which INT32 cannot hold"),
        ("INT64", 1e20, "element 0 is 100000000000000000000, which INT64 cannot hold"),
        ("UINT16", 10**30, "element 0 is 1e+30, which UINT16 cannot hold"),
        ("INT64", "NaN", "element 0 is 'NaN'; INT64 must be whole numbers"),
        ("INT64", True, "element 0 is true"),
        ("FP32", 1e39, "cannot hold"),
        ("FP32", 10**39, "cannot hold"),
        ("FP32", "1", "element 0 is '1'; FP32 must be numbers or the strings NaN, Infinity, -Infinity"),
        ("FP32", "nan", "NaN, Infinity, -Infinity"),
        ("FP64", "inf", "NaN, Infinity, -Infinity"),
        ("FP32", None, "element 0 is null"),
        ("FP32", True, "element 0 is true"),
        ("FP64", {"a": 1}, "element 0 is an object of 1"),
        ("BYTES", 10**20, "texts"),
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
        parse_request(body, None, ANY_MODEL)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_any_bytes_are_parsed_or_refused(body: bytes, header_bytes: int | None) -> None:
    with contextlib.suppress(MalformedRequest, InvalidParameter):
        assert isinstance(parse_request(body, header_bytes, ANY_MODEL), InferRequest)


def test_what_json_cannot_say_is_refused_with_the_way_out() -> None:
    for tensor in (
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

    assert raw_tensor(Declared("x", datatype, (3,)), bytes(3 * size)).num_elements == 3
    with pytest.raises(InvalidParameter, match="has"):
        raw_tensor(Declared("x", datatype, (3,)), bytes(3 * size + 1))
