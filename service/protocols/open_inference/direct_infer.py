"""Inference over HTTP without ASGI, as `http/direct.py` offers it.

What follows from the JSON of a request alone is worked out once: a plan, kept under its bytes until the models change.
So have requests whose tensors are all raw, and those with one tensor of numbers in their JSON: what depends on the
elements is only how they are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import orjson
import simdjson
from starlette.types import ASGIApp

from service.background import Background
from service.engine.transport.messages import Arrays, InferTarget
from service.errors import MalformedRequest, ServiceError
from service.http.accept import accepted_coding
from service.http.direct import Exchange, Head, render
from service.http.request_context import Scope, request_timeout_seconds
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.encoded_images import takes_images
from service.protocols.open_inference.execution import AnswerMaker, Execution, Prepared
from service.protocols.open_inference.reply import Reply, write_reply
from service.protocols.open_inference.request import InferRequest, parse_request, raw_request
from service.protocols.open_inference.route import HEADER_LENGTH, MIN_CODED_BYTES, coded, reply_headers, uncoded
from service.protocols.open_inference.tensors import RAW_ONLY, Tensor, raw_numbers
from service.schema import shown
from service.threads import INLINE_BYTES, off_loop

MAX_PLANS = 512
MAX_PLAN_BYTES = 4096


def header_bytes_of(scope: Scope) -> int | None:
    """The length of the JSON before raw tensors; 0 for one raw tensor alone, None for JSON alone.

    Raises: MalformedRequest.
    """
    lengths = [value for name, value in scope["headers"] if name == HEADER_LENGTH]
    if not lengths:
        return None
    if len(lengths) > 1 or not (lengths[0].isdigit() and len(lengths[0]) < 16):
        given = shown(b", ".join(lengths).decode("latin-1"))
        raise MalformedRequest(f"Inference-Header-Content-Length is {given}; it must be a whole number of bytes.")
    return int(lengths[0])


def read_infer(execution: Execution, target: Target, header_bytes: int | None, body: bytes) -> InferRequest:
    """Read a request for a model.

    Raises: MalformedRequest, InvalidParameter, PayloadTooLarge.
    """
    if header_bytes == 0:
        return raw_request(target, body)
    return parse_request(body, header_bytes, execution.inputs_of(target))


@dataclass(frozen=True, slots=True)
class _HeadFacts:
    is_valid: bool
    header_bytes: int | None
    timeout_seconds: float
    coding: str


class ReplyWriter:
    """Writes the replies to requests with the same JSON; what repeats in small replies, only once."""

    def __init__(self, answer: AnswerMaker, request: InferRequest) -> None:
        self._answer = answer
        self._request = replace(request, inputs=())  # they hold the body
        self._shapes: list[tuple[int, ...]] | None = None
        self._before = self._after = self._lines = b""

    def repeat(self, arrays: Arrays) -> tuple[bytes, bytes] | None:
        """The header lines and the content, where all but the elements is as in the last reply; None otherwise."""
        if [array.shape for array in arrays.values()] != self._shapes:
            return None
        if self._lines:
            return self._lines, self._before + b"".join([array.tobytes() for array in arrays.values()])
        (array,) = arrays.values()
        elements = orjson.dumps(array.reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)
        content = b"%b%b%b" % (self._before, elements, self._after)
        if len(content) >= MIN_CODED_BYTES or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            return None
        return b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content), content

    def is_large(self, arrays: Arrays) -> bool:
        """Whether it takes long to write a reply."""
        return not self._request.wants_binary and sum(array.nbytes for array in arrays.values()) > INLINE_BYTES

    def write(self, arrays: Arrays) -> Reply:
        """Write one reply.

        Raises: InvalidParameter for an output that JSON cannot hold.
        """
        result = self._answer.result(arrays)
        reply = write_reply(result.model_name, result.model_version, self._request, result.outputs)
        content_bytes = sum(map(len, reply.pieces))
        has_numbers = all(tensor.datatype not in ("BYTES", "BOOL", *RAW_ONLY) for _, tensor in result.outputs)
        if content_bytes < MIN_CODED_BYTES and has_numbers:
            shapes = [array.shape for array in arrays.values()]
            if len(reply.pieces) == len(result.outputs) + 1:
                self._before, self._shapes = bytes(reply.pieces[0]), shapes
                self._lines = render(reply_headers(reply, content_bytes, ""))
            elif len(reply.pieces) == len(result.outputs) == 1:
                self._before, elements, self._after = split_elements(bytes(reply.pieces[0]))
                self._shapes = shapes if elements else None
        return reply


@dataclass(frozen=True, slots=True)
class _Plan:
    """What requests with the same JSON have in common; `parts` of the body are their inputs, in the graph's order.

    Where the JSON holds the elements, it is the same apart from those, and `tensor` is the only input.
    """

    target: InferTarget
    num_rows: int
    body_bytes: int
    parts: tuple[slice, ...]
    tensor: Tensor | None
    timeout_seconds: float
    writer: ReplyWriter


Key = tuple[Head, bytes, bytes]


class DirectInfer:
    """Answers inference requests of connections; those with encoded images through `app`, as decoding takes threads."""

    def __init__(self, execution: Execution, app: ASGIApp) -> None:
        self._app = app
        self._execution = execution
        self._client = execution.client
        self._loop = asyncio.get_running_loop()
        self._parser = simdjson.Parser()
        self._background = Background()

    def __call__(self, exchange: Exchange, body: memoryview) -> None:
        """Begin to answer a request.

        Raises: ServiceError.
        """
        facts = exchange.head.derived or self._facts(exchange.head)
        json_bytes = len(body) if facts.header_bytes is None else facts.header_bytes
        if not facts.is_valid or json_bytes > INLINE_BYTES:
            exchange.run(self._app, bytes(body))
            return
        elements = b""
        if facts.header_bytes is None:
            before, elements, after = split_elements(bytes(body))
        else:
            before, after = bytes(body[: facts.header_bytes]), b""
        key = (exchange.head, before, after) if 0 < len(before) + len(after) <= MAX_PLAN_BYTES else None
        plan: _Plan | None = self._client.plans.get(key)
        payload = self._payload(plan, body, elements) if plan is not None else None
        if plan is None or payload is None:
            self._begin(exchange, bytes(body), facts, key, elements)
            return
        self._start(exchange, plan.target, plan.num_rows, payload, plan.timeout_seconds, plan.writer)

    def _payload(self, plan: _Plan, body: memoryview, elements: bytes) -> list[bytes | memoryview] | None:
        """The inputs of a request for which there is a plan; None where they do not fit it."""
        if (tensor := plan.tensor) is not None:
            raw = raw_numbers(tensor.name, tensor.datatype, elements, tensor.num_elements, self._parser)
            return None if raw is None else [raw]
        return [body[part] for part in plan.parts] if len(body) == plan.body_bytes else None

    def _begin(self, exchange: Exchange, body: bytes, facts: _HeadFacts, key: Key | None, elements: bytes) -> None:
        """Begin to answer a request without a plan, and keep one for those that follow."""
        model, version = exchange.head.path_params["model"], exchange.head.path_params.get("version")
        target = self._execution.find(model, version)
        if len(body) > INLINE_BYTES and self._execution.inputs_of(target).takes_strings and facts.header_bytes:
            exchange.run(self._app, body)
            return
        request = read_infer(self._execution, target, facts.header_bytes, body)
        if _has_images(target, request):
            exchange.run(self._app, body)
            return
        target = self._execution.find(model, version, is_request=True)
        prepared = self._execution.prepare(target, request, request.inputs, facts.timeout_seconds)
        writer = ReplyWriter(prepared.answer, request)
        if key is not None and not self._client.has_canary(target.model.name):
            self._keep_plan(key, body, elements, prepared, request, writer)
        rows = prepared.rows
        self._start(exchange, prepared.target, rows.num_rows, rows.payload, prepared.timeout_seconds, writer)

    def _facts(self, head: Head) -> _HeadFacts:
        try:
            json_bytes = header_bytes_of(head.scope)
            timeout_seconds = request_timeout_seconds(head.scope, self._execution.settings)
            facts = _HeadFacts(True, json_bytes, timeout_seconds, accepted_coding(head.scope["headers"]))
        except ServiceError:  # the usual way says what is wrong first
            facts = _HeadFacts(False, None, 0.0, "")
        head.derived = facts
        return facts

    def _keep_plan(
        self,
        key: Key,
        body: bytes,
        elements: bytes,
        prepared: Prepared,
        request: InferRequest,
        writer: ReplyWriter,
    ) -> None:
        """Keep what follows from the JSON, unless the elements may be invalid, or lie elsewhere than it seems."""
        inputs, parts, tensor = request.inputs, tuple[slice, ...](), None
        if any(each.datatype == "BYTES" for each in inputs):
            return
        if elements:
            first = inputs[0]
            raw = raw_numbers(first.name, first.datatype, elements, first.num_elements, self._parser)
            if len(inputs) != 1 or raw != first.raw:
                return
            tensor = replace(first, raw=b"")
        else:
            names = [spec.name for spec in prepared.answer.graph.inputs]
            start = len(key[1])
            parts = _parts(inputs, names, start)
            if start + sum(len(each.raw) for each in inputs) != len(body):
                return  # some of them are in the JSON
        if len(self._client.plans) >= MAX_PLANS:
            self._client.plans.clear()
        self._client.plans[key] = _Plan(
            prepared.target, prepared.rows.num_rows, len(body), parts, tensor, prepared.timeout_seconds, writer
        )

    def _start(
        self,
        exchange: Exchange,
        target: InferTarget,
        num_rows: int,
        payload: Sequence[bytes | memoryview],
        timeout_seconds: float,
        writer: ReplyWriter,
    ) -> None:
        deadline = self._loop.time() + timeout_seconds
        exchange.start(self._client, target, num_rows, payload, deadline, partial(self._reply, writer))

    def _reply(self, writer: ReplyWriter, exchange: Exchange, arrays: Arrays) -> None:
        if (repeated := writer.repeat(arrays)) is not None:
            exchange.reply(*repeated)
            return
        coding = exchange.head.derived.coding
        if not coding and not writer.is_large(arrays):
            headers, content = uncoded(writer.write(arrays))
            exchange.reply(render(headers), content)
            return
        self._background.start("a large answer", self._send(exchange, writer, arrays, coding))

    async def _send(self, exchange: Exchange, writer: ReplyWriter, arrays: Arrays, coding: str) -> None:
        try:
            reply = await off_loop(writer.write, arrays) if writer.is_large(arrays) else writer.write(arrays)
            headers, content = await coded(reply, coding)
            exchange.reply(render(headers), content)
        except Exception as error:
            exchange.fail(error)


def split_elements(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Split JSON into what comes before the only flat array that is called `data`, that array, and what follows.

    Where there is no such array, all of it comes before, and there is none.
    """
    name = body.find(b'"data"')
    start = body.find(b"[", name)
    end = body.find(b"]", start) + 1
    between = body[name + len(b'"data"') : start].strip()
    if name < 0 or start < 0 or not end or between != b":" or body.find(b'"data"', start) >= 0:
        return body, b"", b""
    elements = body[start:end]
    return (body, b"", b"") if elements.find(b"[", 1) >= 0 else (body[:start], elements, body[end:])


def _parts(tensors: Sequence[Tensor], names: Sequence[str], start: int) -> tuple[slice, ...]:
    """Where the tensors, which lie behind one another, are in the body, in the order of some names."""
    places = {}
    for tensor in tensors:
        places[tensor.name] = slice(start, start + len(tensor.raw))
        start += len(tensor.raw)
    if list(places) == list(names):
        return (slice(places[names[0]].start, start),)
    return tuple(places[name] for name in names)


def _has_images(target: Target, request: InferRequest) -> bool:
    graph = target.graph
    return graph is not None and any(
        takes_images(target.model.manifest, spec)
        for spec in graph.inputs
        if any(tensor.name == spec.name and tensor.datatype == "BYTES" for tensor in request.inputs)
    )
