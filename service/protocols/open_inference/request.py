"""Reads an inference request: JSON, JSON followed by raw tensors, or one raw tensor alone.

It checks the layout of the request; whether the model takes such inputs is checked in `inputs.py`. Sources:
inference_rest.md, extension_binary_data.md, extension_classification.md.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Any

import simdjson

from models.manifest import TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, MalformedRequest, Unsupported
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.encoded_images import takes_images
from service.protocols.open_inference.inputs import ModelInputs, check_distinct
from service.protocols.open_inference.tensors import (
    ELEMENT_BYTES,
    Declared,
    Tensor,
    declared_tensor,
    raw_tensor,
    shown_json,
    tensor_from_json,
)
from service.schema import shown

NO_SHARED_MEMORY = "This service does not use its callers' shared memory; send raw tensors in the requests."
Scalar = bool | int | float | str
_MAX_PARAMETERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """One requested output.

    `is_binary` None leaves the form to the request; `num_classes` above 0 requests the best classes instead.
    """

    name: str
    is_binary: bool | None = None
    num_classes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request as received; empty `outputs` stand for all."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def wants_binary(self) -> bool:
        """Whether outputs are raw unless they say otherwise."""
        return bool(self.parameters.get("binary_data_output", False))


def parse_request(body: bytes, header_bytes: int | None, model: ModelInputs) -> InferRequest:
    """Read a request whose JSON is the first `header_bytes` of the body; None: all of it.

    Raises: MalformedRequest, InvalidParameter, PayloadTooLarge.
    """
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise MalformedRequest(
            f"Inference-Header-Content-Length is {header_bytes}; the body has {len(body)} bytes, "
            "of which the JSON is at least one."
        )
    raw = memoryview(body)[len(body) if header_bytes is None else header_bytes :]
    text = body if header_bytes is None else body[:header_bytes]
    model.json_bounds.check(text)
    document = _parse_json(text)
    items = _objects(document, "inputs", model.max_tensors)
    declared = [_declared(item) for item in items]
    model.check(declared)
    request = InferRequest(
        inputs=_inputs(zip(items, declared, strict=True), raw, is_binary=header_bytes is not None),
        outputs=tuple(_output(item) for item in _objects(document, "outputs", model.max_tensors)),
        id=_id(document.get("id")),
        parameters=_parameters(document, "the request"),
    )
    check_distinct([output.name for output in request.outputs], "outputs")
    _require_type(request.parameters, "binary_data_output", bool)
    return request


def _parse_json(text: bytes) -> simdjson.Object:
    try:
        document = _parsed(text)
    except (ValueError, RuntimeError) as error:
        if not any(code in str(error) for code in _NUMBER_CODES):
            raise MalformedRequest(_NOT_JSON) from error
        document = _parse_wide(text)
    if not isinstance(document, simdjson.Object):
        raise MalformedRequest("The request must be a JSON object with `inputs`.")
    return document


def _parse_wide(text: bytes) -> Any:
    """Parse JSON with whole numbers of over 64 bits, which the parser does not take."""
    text = _WIDE_NUMBER.sub(_as_double, text)
    try:
        return _parsed(text)
    except (ValueError, RuntimeError) as error:
        _check_exponents(text)
        raise MalformedRequest(_NOT_JSON) from error


def _parsed(text: bytes) -> Any:
    # Of its own parser: what it parses lives as long as the parser is not used again.
    return simdjson.Parser().parse(text)


_NOT_JSON = "The request is not JSON, or nests too deeply."
_NUMBER_CODES = ("BIGINT_ERROR", "NUMBER_ERROR")
# Any text, up to a whole number of 19 digits or more, or to the end. No part of it goes back over what it has passed,
# and it matches everywhere: so the time is linear, whatever the text.
_STRING = rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)'
_NARROW = rb"[0-9]{1,18}+(?![0-9])(?:[.eE][0-9.eE+-]*+)?+|[0-9]{19,}+[.eE][0-9.eE+-]*+"
_BEFORE = rb'(?:[^"0-9]*+(?:%b|%b))*+[^"0-9]*+' % (_STRING, _NARROW)
_WIDE_NUMBER = re.compile(rb"(%b)([0-9]{19,}+|\Z)" % _BEFORE, re.DOTALL)
_EXPONENT = re.compile(rb"%b|(?<![0-9.])([0-9]++(?:\.[0-9]++)?+[eE]\+?[0-9]{3,}+)" % _STRING, re.DOTALL)
_MAX_EXPONENTS = 10_000
_MAX_DOUBLE_DIGITS = sys.float_info.max_10_exp  # of whole numbers that surely are doubles


def _as_double(found: re.Match[bytes]) -> bytes:
    """The text with the number at its end written as the parser takes it: a double where it is beyond 64 bits."""
    num_digits = len(found[2])
    if num_digits > _MAX_DOUBLE_DIGITS:
        _check_double(found[2])
    elif num_digits <= 20:
        highest = 2**63 if found[1].endswith(b"-") else 2**64 - 1
        if num_digits == 0 or int(found[2]) <= highest:
            return found[0]
    return found[0] + b".0"


def _check_exponents(text: bytes) -> None:
    """Say which number is too large, if that is why the text cannot be parsed; it looks only so far."""
    for found in islice(_EXPONENT.finditer(text), _MAX_EXPONENTS):
        _check_double(found[1] or b"0")


def _check_double(number: bytes) -> None:
    if math.isinf(float(number)):
        raise InvalidParameter(f"The number {shown(number.decode('ascii'))} is too large; numbers go up to 1.8e308.")


def _objects(document: simdjson.Object, name: str, max_tensors: int) -> list[simdjson.Object]:
    """The objects of a list in the request."""
    items = document.get(name)
    if items is None and name != "inputs":
        return []
    if not isinstance(items, simdjson.Array) or len(items) > max_tensors:
        raise MalformedRequest(f"`{name}` must be a list of up to {max_tensors} objects.")
    objects = [item for item in items if isinstance(item, simdjson.Object)]
    if len(objects) < len(items):
        raise MalformedRequest(f"`{name}` must be a list of objects.")
    return objects


def _declared(item: simdjson.Object) -> Declared:
    name, datatype, shape = _name(item, "input"), item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str):
        raise InvalidParameter(f"The datatype of {shown(name)} is missing; it must be a string.", parameter=name)
    if not isinstance(shape, simdjson.Array):
        raise InvalidParameter(f"The shape of {shown(name)} is missing; it must be a list.", parameter=name)
    _refuse_shared_memory(_parameters(item, shown(name)), name)
    return declared_tensor(name, datatype, shape)


def _inputs(
    items: Iterable[tuple[simdjson.Object, Declared]], raw: memoryview, *, is_binary: bool
) -> tuple[Tensor, ...]:
    """The inputs; raw ones follow the JSON one after the other, to the end of the body."""
    tensors = []
    position = 0
    for item, declared in items:
        name = declared.name
        size = _parameters(item, shown(name)).get("binary_data_size")
        if size is None:
            tensors.append(tensor_from_json(declared, item.get("data")))
            continue
        if not is_binary or type(size) is not int or not 0 <= size <= len(raw) - position:
            raise InvalidParameter(
                f"binary_data_size of {shown(name)} is {shown(size)}; {len(raw) - position} bytes follow the JSON, "
                "whose length Inference-Header-Content-Length must give.",
                parameter=name,
            )
        if item.get("data") is not None:
            raise InvalidParameter(f"{shown(name)} has both data and binary_data_size.", parameter=name)
        tensors.append(raw_tensor(declared, raw[position : position + size]))
        position += size
    if position != len(raw):
        raise InvalidParameter(
            f"{len(raw)} bytes follow the JSON; the inputs' binary_data_size add up to {position}.", parameter="inputs"
        )
    return tuple(tensors)


def _output(item: simdjson.Object) -> RequestedOutput:
    name = _name(item, "output")
    parameters = _parameters(item, shown(name))
    _refuse_shared_memory(parameters, name)
    _require_type(parameters, "binary_data", bool)
    _require_type(parameters, "classification", int)
    num_classes = int(parameters.get("classification", 0))
    if num_classes < 0 or ("classification" in parameters and num_classes == 0):
        raise InvalidParameter(f"classification of {shown(name)} is {num_classes}; it must be at least 1.")
    binary = parameters.get("binary_data")
    return RequestedOutput(name=name, is_binary=None if binary is None else bool(binary), num_classes=num_classes)


def _refuse_shared_memory(parameters: Mapping[str, Scalar], name: str) -> None:
    if "shared_memory_region" in parameters:
        raise Unsupported(f"{shown(name)} refers to shared memory. {NO_SHARED_MEMORY}", parameter=name)


def _name(item: simdjson.Object, kind: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedRequest(f"An {kind} has no name.")
    return name


def _id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidParameter(f"id is {shown_json(value)}; it must be a string.", parameter="id")
    return value


def _parameters(item: simdjson.Object, of: str) -> dict[str, Scalar]:
    """The parameters of a request or a tensor: names with strings, numbers, true or false."""
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, simdjson.Object):
        raise MalformedRequest(f"The parameters of {of} must be an object.")
    if len(found) > _MAX_PARAMETERS:
        raise MalformedRequest(f"{of} has {len(found)} parameters; at most {_MAX_PARAMETERS} are accepted.")
    parameters: dict[str, Scalar] = {}
    for name, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidParameter(
                f"The parameter {shown(name)} of {of} is {shown_json(value)}; it must be a string, "
                "a number, true or false.",
                parameter=name,
            )
        parameters[name] = value
    return parameters


def _require_type(parameters: Mapping[str, Scalar], name: str, kind: type) -> None:
    if name in parameters and type(parameters[name]) is not kind:
        what = "true or false" if kind is bool else "a whole number"
        raise InvalidParameter(f"{name} is {shown(parameters[name])}; it must be {what}.", parameter=name)


# --- One raw tensor (extension_binary_data.md, "raw binary request") ---


def raw_request(target: Target, body: bytes) -> InferRequest:
    """Read a body that is one row of the model's only input and nothing else; all outputs are raw.

    Raises: InvalidParameter where the model has several inputs, or its input's size does not follow from the body's.
    """
    graph = target.graph
    if graph is None or len(graph.inputs) != 1:
        count = "no tensors" if graph is None else f"{len(graph.inputs)} inputs"
        raise InvalidParameter(f"{target.name!r} takes {count}; a raw request needs a model of one input.")
    spec = graph.inputs[0]
    sizes = spec.row_shape if graph.is_batched else spec.shape
    rows = (1,) if graph.is_batched else ()
    return InferRequest(inputs=(_raw_input(target, spec, rows, sizes, body),), parameters={"binary_data_output": True})


def _raw_input(target: Target, spec: TensorSpec, rows: tuple[int, ...], sizes: tuple[int, ...], body: bytes) -> Tensor:
    if spec.datatype == "BYTES":
        if any(size not in (1, -1) for size in sizes):
            raise InvalidParameter(f"{shown(spec.name)} takes several elements; a raw request holds one.")
        return Tensor(spec.name, "BYTES", (*rows, *(1 for _ in sizes)), pack_strings([body]))
    shape = _filled_shape(spec, sizes, len(body))
    if shape is not None:
        return raw_tensor(Declared(spec.name, spec.datatype, (*rows, *shape)), body)
    if takes_images(target.model.manifest, spec):
        return Tensor(spec.name, "BYTES", (1,), pack_strings([body]))
    raise InvalidParameter(
        f"The body has {len(body)} bytes, which do not make {shown(spec.name)}, {spec.datatype} {list(sizes)}.",
        parameter=spec.name,
    )


def _filled_shape(spec: TensorSpec, sizes: tuple[int, ...], num_bytes: int) -> tuple[int, ...] | None:
    """The shape that the bytes fill; one open size follows from their number."""
    known_bytes = prod(size for size in sizes if size >= 0) * ELEMENT_BYTES[spec.datatype]
    num_open = sum(size < 0 for size in sizes)
    if num_open > 1 or (num_open == 1 and (known_bytes == 0 or num_bytes % known_bytes)):
        return None
    if num_open == 0:
        return sizes if num_bytes == known_bytes else None
    return tuple(num_bytes // known_bytes if size < 0 else size for size in sizes)
