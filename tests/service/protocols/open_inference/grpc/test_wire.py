"""Fields are counted as protobuf reads them, without reading them."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedRequest, PayloadTooLarge
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest
from service.protocols.open_inference.grpc.wire import MAX_FIELDS, has_more_fields, parse


def request_of(num_strings: int, num_numbers: int, num_parameters: int) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="BYTES", shape=[num_strings])
    tensor.contents.bytes_contents.extend([b""] * num_strings)
    tensor.contents.fp32_contents.extend([1.0] * num_numbers)
    for at in range(num_parameters):
        request.parameters[str(at)].int64_param = at
    return request


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 20))
def test_each_string_and_field_counts_and_packed_numbers_count_once(
    strings: int, numbers: int, parameters: int
) -> None:
    data = request_of(strings, numbers, parameters).SerializeToString()
    # The name, the input with its name, type, shape and contents; the entry, key, value and number of a parameter.
    exact = 6 + strings + 1 + 4 * parameters

    assert not has_more_fields(data, ModelInferRequest.DESCRIPTOR, exact)
    assert has_more_fields(data, ModelInferRequest.DESCRIPTOR, exact - 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    try:
        has_more_fields(data, ModelInferRequest.DESCRIPTOR, 1000)
    except DecodeError:
        with pytest.raises(DecodeError):
            ModelInferRequest.FromString(data)


def test_a_message_of_too_many_strings_is_refused_before_it_is_read() -> None:
    async def main() -> None:
        with pytest.raises(PayloadTooLarge, match=f"more than {MAX_FIELDS}"):
            await parse(ModelInferRequest, request_of(MAX_FIELDS + 1, 1, 0).SerializeToString())
        with pytest.raises(MalformedRequest):
            await parse(ModelInferRequest, b"\xff" * 70_000)

        assert (await parse(ModelInferRequest, request_of(70_000, 1, 0).SerializeToString())).model_name == "m"

    asyncio.run(main())
