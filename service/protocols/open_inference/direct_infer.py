"""Inference over HTTP without ASGI, as `http/direct.py` offers it.

What follows from the JSON of a request alone is worked out once: a plan, kept under its bytes until the models change.
Only requests whose tensors are all raw have one, as then nothing in their JSON depends on the elements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from starlette.types import ASGIApp

from service.engine.transport.messages import Arrays, InferTarget
from service.errors import MalformedRequest
from service.http.accept import accepted_coding
from service.http.direct import Exchange, Head, render
from service.http.request_context import Scope, request_timeout_seconds
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.encoded_images import takes_images
from service.protocols.open_inference.execution import AnswerMaker, Execution, Prepared
from service.protocols.open_inference.reply import Reply, write_reply
from service.protocols.open_inference.request import InferRequest, max_tensors, parse_request, raw_request
from service.protocols.open_inference.route import (
    HEADER_LENGTH,
    INLINE_BYTES,
    MIN_CODED_BYTES,
    deflate,
    encoded,
    reply_headers,
)
from service.schema import shown

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


def read_infer(target: Target, header_bytes: int | None, body: bytes) -> InferRequest:
    """Read a request for a model.

    Raises: MalformedRequest, InvalidParameter.
    """
    return raw_request(target, body) if header_bytes == 0 else parse_request(body, header_bytes, max_tensors(target))


@dataclass(frozen=True, slots=True)
class _HeadFacts:
    header_bytes: int | None
    timeout_seconds: float
    coding: str


class ReplyWriter:
    """Writes the replies to requests with the same JSON; what repeats in small replies of raw tensors, only once."""

    def __init__(self, answer: AnswerMaker, request: InferRequest) -> None:
        self._answer = answer
        self._request = replace(request, inputs=())  # they hold the body
        self._shapes: list[tuple[int, ...]] | None = None
        self._json = self.lines = b""

    def repeat(self, arrays: Arrays) -> bytes | None:
        """The content after `lines`, if the last reply was of the same shapes; None otherwise."""
        if [array.shape for array in arrays.values()] != self._shapes:
            return None
        return self._json + b"".join([array.tobytes() for array in arrays.values()])

    def write(self, arrays: Arrays) -> Reply:
        """Write one reply.

        Raises: InvalidParameter for an output that JSON cannot hold.
        """
        result = self._answer.result(arrays)
        reply = write_reply(result.model_name, result.model_version, self._request, result.outputs)
        content_bytes = sum(map(len, reply.pieces))
        is_raw = len(reply.pieces) == len(result.outputs) + 1
        is_fixed = is_raw and all(tensor.datatype != "BYTES" for _, tensor in result.outputs)
        if is_fixed and content_bytes < MIN_CODED_BYTES:
            self._shapes, self._json = [array.shape for array in arrays.values()], bytes(reply.pieces[0])
            self.lines = render(reply_headers(reply, content_bytes, ""))
        return reply


@dataclass(frozen=True, slots=True)
class _Plan:
    """What requests with the same JSON have in common; `parts` of the body are their inputs, in the graph's order."""

    target: InferTarget
    num_rows: int
    raw_bytes: int
    parts: tuple[slice, ...]
    timeout_seconds: float
    writer: ReplyWriter


class DirectInfer:
    """Answers inference requests of connections; those with encoded images through `app`, as decoding takes threads."""

    def __init__(self, execution: Execution, app: ASGIApp) -> None:
        self._app = app
        self._execution = execution
        self._client = execution.client
        self._threads = execution.tokenizers.threads
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange, body: memoryview) -> None:
        """Begin to answer a request.

        Raises: ServiceError.
        """
        facts = exchange.head.derived or self._facts(exchange.head)
        size = facts.header_bytes or 0
        key = (exchange.head, bytes(body[:size])) if 0 < size <= MAX_PLAN_BYTES else None
        plan: _Plan | None = self._client.plans.get(key)
        if plan is not None and len(body) == size + plan.raw_bytes:
            payload = [body[part] for part in plan.parts]
            self._start(exchange, plan.target, plan.num_rows, payload, plan.timeout_seconds, plan.writer)
            return
        path = exchange.head.path_params
        target = self._execution.find(path["model"], path.get("version"), is_request=True)
        request = read_infer(target, facts.header_bytes, bytes(body))
        if _has_images(target, request):
            exchange.run(self._app, bytes(body))
            return
        prepared = self._execution.prepare(target, request, request.inputs, facts.timeout_seconds)
        writer = ReplyWriter(prepared.answer, request)
        if key is not None and not self._client.has_canary(target.model.name):
            self._keep_plan(key, size, body, prepared, request, writer)
        rows = prepared.rows
        self._start(exchange, prepared.target, rows.num_rows, rows.payload, prepared.timeout_seconds, writer)

    def _facts(self, head: Head) -> _HeadFacts:
        facts = head.derived = _HeadFacts(
            header_bytes_of(head.scope),
            request_timeout_seconds(head.scope, self._execution.settings),
            accepted_coding(head.scope["headers"]),
        )
        return facts

    def _keep_plan(
        self,
        key: tuple[Head, bytes],
        json_bytes: int,
        body: memoryview,
        prepared: Prepared,
        request: InferRequest,
        writer: ReplyWriter,
    ) -> None:
        """Keep what follows from the JSON, unless it holds elements, or the elements may be invalid."""
        sizes = {tensor.name: len(tensor.raw) for tensor in request.inputs}
        raw_bytes = len(body) - json_bytes
        if sum(sizes.values()) != raw_bytes or any(tensor.datatype == "BYTES" for tensor in request.inputs):
            return
        ends, end = {}, 0
        for name, size in sizes.items():
            end += size
            ends[name] = end
        names = [spec.name for spec in prepared.answer.graph.inputs]
        parts = tuple(slice(ends[name] - sizes[name], ends[name]) for name in names)
        if list(sizes) == names:
            parts = (slice(0, raw_bytes),)
        parts = tuple(slice(part.start + json_bytes, part.stop + json_bytes) for part in parts)
        if len(self._client.plans) >= MAX_PLANS:
            self._client.plans.clear()
        self._client.plans[key] = _Plan(
            prepared.target, prepared.rows.num_rows, raw_bytes, parts, prepared.timeout_seconds, writer
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
            exchange.reply(writer.lines, repeated)
            return
        reply = writer.write(arrays)
        content, coding = b"".join(reply.pieces), ""
        if len(content) >= MIN_CODED_BYTES and (coding := exchange.head.derived.coding):
            if len(content) > INLINE_BYTES:
                task = self._loop.create_task(self._reply_coded(exchange, reply, content, coding))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            content = deflate(content, coding)
        exchange.reply(render(reply_headers(reply, len(content), coding)), content)

    async def _reply_coded(self, exchange: Exchange, reply: Reply, content: bytes, coding: str) -> None:
        try:
            content = await encoded(content, coding, self._threads)
            exchange.reply(render(reply_headers(reply, len(content), coding)), content)
        except Exception as error:
            exchange.fail(error)


def _has_images(target: Target, request: InferRequest) -> bool:
    graph = target.graph
    return graph is not None and any(
        takes_images(target.model.manifest, spec)
        for spec in graph.inputs
        if any(tensor.name == spec.name and tensor.datatype == "BYTES" for tensor in request.inputs)
    )
