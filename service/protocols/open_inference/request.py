"""Reads an inference request: JSON, or JSON followed by raw tensors (the binary tensor data extension).

It owns the layout of the request and checks it by itself; whether a model takes such inputs is not known here. Sources:
inference_rest.md, extension_binary_data.md, extension_classification.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import simdjson

from service.errors import InvalidParameter, MalformedRequest, Unsupported
from service.protocols.open_inference.json_tensors import tensor_from_json
from service.protocols.open_inference.tensors import Tensor, raw_tensor
from service.schema import shown

MAX_TENSORS = 256
NO_SHARED_MEMORY = "This service uses no shared memory of its callers; send tensors raw in the requests themselves."
Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOutput:
    """One output that is asked for.

    `is_binary` None leaves the form to the request; `num_classes` above 0 asks for the best classes instead.
    """

    name: str
    is_binary: bool | None = None
    num_classes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request as it came; `outputs` empty asks for all."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[WantedOutput, ...] = ()
    id: str | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def wants_binary(self) -> bool:
        """Whether outputs that do not say otherwise are wanted raw."""
        return bool(self.parameters.get("binary_data_output", False))


def parse_request(body: bytes, header_bytes: int | None) -> InferRequest:
    """Read a request whose JSON takes `header_bytes` of the body; None: all of it.

    Raises: MalformedRequest, InvalidParameter.
    """
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise MalformedRequest(
            f"Inference-Header-Content-Length is {header_bytes}; the body has {len(body)} bytes, "
            "of which the JSON takes at least one."
        )
    raw = memoryview(body)[len(body) if header_bytes is None else header_bytes :]
    document = _parse_json(body if header_bytes is None else body[:header_bytes])
    request = InferRequest(
        inputs=_inputs(_objects(document, "inputs"), raw, is_binary=header_bytes is not None),
        outputs=tuple(_output(item) for item in _objects(document, "outputs")),
        id=_id(document.get("id")),
        parameters=_parameters(document, "the request"),
    )
    _require_distinct([tensor.name for tensor in request.inputs], "inputs")
    _require_distinct([output.name for output in request.outputs], "outputs")
    _require_type(request.parameters, "binary_data_output", bool)
    return request


def _parse_json(text: bytes) -> simdjson.Object:
    try:
        # Of its own parser: what it parses lives as long as the parser is not used again.
        document = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError) as error:
        raise MalformedRequest("The request is not JSON, or nests too deeply.") from error
    if not isinstance(document, simdjson.Object):
        raise MalformedRequest("The request must be a JSON object with `inputs`.")
    return document


def _objects(document: simdjson.Object, name: str) -> list[simdjson.Object]:
    """The objects of a list that the request may have."""
    items = document.get(name)
    if items is None and name != "inputs":
        return []
    if not isinstance(items, simdjson.Array) or len(items) > MAX_TENSORS:
        raise MalformedRequest(f"`{name}` must be a list of up to {MAX_TENSORS} objects.")
    objects = [item for item in items if isinstance(item, simdjson.Object)]
    if len(objects) < len(items):
        raise MalformedRequest(f"`{name}` must be a list of objects.")
    return objects


def _inputs(items: list[simdjson.Object], raw: memoryview, *, is_binary: bool) -> tuple[Tensor, ...]:
    """The inputs; raw ones lie one after the other behind the JSON, and take all of it."""
    tensors = []
    position = 0
    for item in items:
        name, datatype, shape = _name(item, "input"), item.get("datatype"), item.get("shape")
        if not isinstance(datatype, str):
            raise InvalidParameter(f"The datatype of {shown(name)} is missing; it must be a text.", parameter=name)
        if not isinstance(shape, simdjson.Array):
            raise InvalidParameter(f"The shape of {shown(name)} is missing; it must be a list.", parameter=name)
        parameters = _parameters(item, shown(name))
        _refuse_shared_memory(parameters, name)
        size = parameters.get("binary_data_size")
        if size is None:
            tensors.append(tensor_from_json(name, datatype, shape.as_list(), item.get("data")))
            continue
        if not is_binary or type(size) is not int or not 0 <= size <= len(raw) - position:
            raise InvalidParameter(
                f"binary_data_size of {shown(name)} is {shown(size)}; {len(raw) - position} bytes follow the JSON, "
                "whose length Inference-Header-Content-Length must tell.",
                parameter=name,
            )
        if item.get("data") is not None:
            raise InvalidParameter(f"{shown(name)} has both data and binary_data_size.", parameter=name)
        tensors.append(raw_tensor(name, datatype, shape.as_list(), raw[position : position + size]))
        position += size
    if position != len(raw):
        raise InvalidParameter(
            f"{len(raw)} bytes follow the JSON; the inputs' binary_data_size add up to {position}.", parameter="inputs"
        )
    return tuple(tensors)


def _output(item: simdjson.Object) -> WantedOutput:
    name = _name(item, "output")
    parameters = _parameters(item, shown(name))
    _refuse_shared_memory(parameters, name)
    _require_type(parameters, "binary_data", bool)
    _require_type(parameters, "classification", int)
    num_classes = int(parameters.get("classification", 0))
    if num_classes < 0 or ("classification" in parameters and num_classes == 0):
        raise InvalidParameter(f"classification of {shown(name)} is {num_classes}; it must be at least 1.")
    binary = parameters.get("binary_data")
    return WantedOutput(name=name, is_binary=None if binary is None else bool(binary), num_classes=num_classes)


def _refuse_shared_memory(parameters: Mapping[str, Scalar], name: str) -> None:
    if "shared_memory_region" in parameters:
        raise Unsupported(f"{shown(name)} is to be in shared memory. {NO_SHARED_MEMORY}", parameter=name)


def _name(item: simdjson.Object, kind: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise MalformedRequest(f"An {kind} has no name.")
    return name


def _id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidParameter(f"id is {shown(_plain(value))}; it must be a text.", parameter="id")
    return value


def _parameters(item: simdjson.Object, of: str) -> dict[str, Scalar]:
    """The parameters of a request or a tensor: names with texts, numbers, true or false."""
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, simdjson.Object):
        raise MalformedRequest(f"The parameters of {of} must be an object.")
    parameters: dict[str, Scalar] = {}
    for name, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidParameter(
                f"The parameter {shown(name)} of {of} is {shown(_plain(value))}; it must be a text, a number, true or "
                "false.",
                parameter=name,
            )
        parameters[name] = value
    return parameters


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _require_type(parameters: Mapping[str, Scalar], name: str, kind: type) -> None:
    if name in parameters and type(parameters[name]) is not kind:
        what = "true or false" if kind is bool else "a whole number"
        raise InvalidParameter(f"{name} is {shown(parameters[name])}; it must be {what}.", parameter=name)


def _require_distinct(names: list[str], what: str) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidParameter(f"The {what} name {', '.join(map(shown, repeated))} more than once.", parameter=what)
