"""Requests that their connection answers itself, without uvicorn's cycle and the middleware, which cost more than most.

The first request with a head goes the usual way, through every check. What follows from the head alone is then kept
under its bytes, and a request with the same head is given to its route at once. Only what differs from request to
request is left out of the key: lengths, ids.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from starlette.types import ASGIApp, Message
from uvicorn.protocols.http.flow_control import FlowControl

from service.background import Background
from service.budget import SMALL_BYTES
from service.engine.transport.calls import Inference
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import Arrays, InferenceTiming, InferTarget, Piece
from service.errors import ServiceError
from service.http.answers import reserve_answer
from service.http.gate import Need, as_seen_with
from service.http.problems import error_response, failure_of
from service.http.request_context import RequestContext, Scope, attach

MAX_HEADS = 1024
MAX_HEAD_BYTES = 4096
_MAX_LENGTH_DIGITS = 15
# Of a header that is not among these, every value makes another head. Nothing is tried twice, whatever comes.
_VARYING = re.compile(rb"\r\n(content-length|x-request-id|traceparent|tracestate): *+([ -~]*+)(?=\r\n)", re.IGNORECASE)
_LENGTH, _ID = b"content-length", b"x-request-id"
_NOT_PLAIN = (b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te")
_APPLICATIONS = Background()
"""Owns the tasks of all applications that answer."""

Key = tuple[bytes, ...]
HeaderPairs = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class Head:
    """What follows from a head: the scope without what varies, the label of its route, and how that answers.

    Of the values that vary, in their order, `length_at` is the place of the body's length, `id_at` that of the id.
    `derived` is for what the route itself works out of it.
    """

    scope: Scope
    route: str
    path_params: Mapping[str, str]
    direct: Direct
    length_at: int
    id_at: int | None
    request_id: str | None
    need: Need
    derived: Any = None


class KnownHead(NamedTuple):
    """A head that was seen before, with the values that differ: the length of its body, and its id."""

    head: Head
    num_bytes: int
    request_id: str | None


class Answering(Protocol):
    """A route, which answers by an ASGI application or without; `path` is its label in metrics."""

    @property
    def path(self) -> str:
        """The path, with its parameters in braces."""

    @property
    def handler(self) -> ASGIApp:
        """The ASGI application."""

    @property
    def direct(self) -> Direct | None:
        """How it answers without ASGI, if it can."""


class DirectHeads:
    """The heads that are known.

    `find_route` says which route answers a scope, and with which parameters; `need_of` checks the scope, and says what
    it needs of its key.
    """

    def __init__(
        self,
        find_route: Callable[[Scope], tuple[Answering, Mapping[str, str]] | None],
        need_of: Callable[[Scope], Need],
        max_body_bytes: int,
    ) -> None:
        self._find_route = find_route
        self._need_of = need_of
        self._max_body_bytes = max_body_bytes
        self._heads: dict[Key, Head] = {}

    def find(self, data: bytes | bytearray, end: int) -> KnownHead | None:
        """The head that ends at `end`, if it is known."""
        if end > MAX_HEAD_BYTES:
            return None
        pieces = _VARYING.split(data[: end - 2])
        head = self._heads.get(_key(pieces))
        if head is None:
            return None
        values = pieces[2::3]
        length = values[head.length_at]
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS or int(length) > self._max_body_bytes:
            return None
        given = head.request_id if head.id_at is None else str(values[head.id_at], "ascii")
        return KnownHead(head, int(length), given)

    def learn(self, data: bytes, scope: Scope) -> None:
        """Keep a head that passed every check, if there is a route for it."""
        found = self._find_route(scope)
        if found is None or len(data) > MAX_HEAD_BYTES or not _is_plain(data, scope):
            return
        route, path_params = found
        direct = route.direct or through(route.handler)
        pieces = _VARYING.split(data[:-2])
        names = [name.lower() for name in pieces[1::3]]
        if _LENGTH not in names or len(set(names)) < len(names):
            return
        headers = [header for header in scope["headers"] if header[0] not in names]
        kept = {name: scope[name] for name in ("type", "method", "path", "query_string")} | {"headers": headers}
        constant_id = next((str(value, "latin-1") for name, value in headers if name == _ID), None)
        id_at = names.index(_ID) if _ID in names else None
        try:
            need = self._need_of(scope)
        except ServiceError:  # the usual way says so, each time
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[_key(pieces)] = Head(
            kept, route.path, path_params, direct, names.index(_LENGTH), id_at, constant_id, need
        )


def render(headers: HeaderPairs) -> bytes:
    """Headers as lines."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _key(pieces: Sequence[bytes]) -> Key:
    return (*pieces[0::3], *pieces[1::3])


def _is_plain(data: bytes, scope: Scope) -> bool:
    """Whether the bytes are those of the head, and it asks for no more than an answer to a body of a known length."""
    first, *lines = data[:-4].split(b"\r\n")
    pairs = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    if first != b"%b %b HTTP/1.1" % (scope["method"].encode("ascii"), target) or pairs != scope["headers"]:
        return False
    values = {name: value.lower() for name, value in pairs}
    return (
        values.get(b"connection", b"keep-alive") == b"keep-alive"
        and values.get(b"content-encoding", b"identity") == b"identity"
        and values.keys().isdisjoint(_NOT_PLAIN)
        and not values.get(b"content-type", b"").startswith(b"multipart/")  # its boundary is another each time
    )


class Connection(Protocol):
    """The connection of a request, which takes its answer."""

    flow: FlowControl

    def finish(self, exchange: Exchange, status: int, lines: bytes, content: bytes) -> None:
        """Send an answer, whose headers are `lines`."""

    def begin_stream(self, exchange: Exchange, status: int, lines: bytes, *, is_chunked: bool) -> None:
        """Send the head of an answer that comes in parts; in chunks, unless its length is among the lines."""

    def stream(self, exchange: Exchange, content: bytes, *, is_last: bool) -> None:
        """Send a part of an answer."""


class Exchange(Inference):
    """A request that its connection answers itself.

    It may be the inference that it needs (`start`), or be answered by an ASGI application (`run`).
    """

    def __init__(self, connection: Connection, head: Head, context: RequestContext) -> None:
        self.connection = connection
        self.head = head
        self.context = context
        self._client: EngineClient | None = None
        self._is_streamed = self._is_complete = False

    # --- an inference ---

    def start(
        self,
        client: EngineClient,
        target: InferTarget,
        num_rows: int,
        payload: Sequence[Piece],
        deadline: float,
        on_answer: Callable[[Exchange, Arrays], None],
    ) -> None:
        """Compute; `on_answer` then replies.

        Raises: EngineUnavailable; TooManyRequests.
        """
        account = self.context.account
        target = account.spend_rows(target, num_rows)
        super().__init__(client.next_id(), target, num_rows, payload, deadline, account.caller)
        self._on_answer = on_answer
        self._client = client
        self.context.model = target.model
        self.context.precision = client.precision_of(target.model, target.version)
        client.start(self)

    def answer(self, arrays: Arrays, timing: InferenceTiming) -> None:
        """Reply with what was computed."""
        self.payload = ()
        self.context.timing = timing
        try:
            self._on_answer(self, arrays)
        except Exception as error:  # it must not end the connection to the engine
            self.fail(error)

    # --- an ASGI application ---

    def run(self, app: ASGIApp, body: bytes) -> None:
        """Have an application answer; it gets the whole body at once."""
        scope = {**self.head.scope, "path_params": self.head.path_params}
        attach(scope, self.context)
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        _APPLICATIONS.start("a request", self._serve(app, scope))

    async def _serve(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
            if not self._is_complete:
                raise RuntimeError("The application ended without an answer.")
        except Exception as error:
            self.fail(error)

    async def _receive(self) -> Message:
        message, self._message = self._message, None
        if message is None:
            await asyncio.Event().wait()  # nothing follows; who leaves is told through the context
        assert message is not None
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            reserve_answer(self.context, message)
            self._status, self._headers = message["status"], message.get("headers", ())
            return
        content, is_last = message.get("body", b""), not message.get("more_body")
        self._is_complete = is_last
        if self._is_streamed:
            if self.connection.flow.write_paused:
                await self.connection.flow.drain()
            self.connection.stream(self, content, is_last=is_last)
        elif is_last:
            self.connection.finish(self, self._status, render(self._headers), content)
        else:
            self._is_streamed = True
            is_chunked = all(name.lower() != _LENGTH for name, _ in self._headers)
            self.connection.begin_stream(self, self._status, render(self._headers), is_chunked=is_chunked)
            self.connection.stream(self, content, is_last=False)

    # --- the end ---

    def reply(self, lines: bytes, content: bytes) -> None:
        """Send the answer; `lines` are its headers.

        Raises: Busy where there is no room to keep it until it is read.
        """
        if len(content) > SMALL_BYTES:
            self.context.reservation.grow(len(content), "the answer")
        self.connection.finish(self, 200, lines, content)

    def fail(self, error: Exception) -> None:
        """Answer with an error, or break off an answer that has begun."""
        failure = failure_of(error, self.context.request_id)
        if self._is_streamed:
            self.context.failure_status = self.context.failure_status or failure.status
        scope = self.head.scope
        response = error_response(scope["path"], as_seen_with(self.context.caller, failure), asked=scope["headers"])
        self.connection.finish(self, response.status_code, render(response.raw_headers), bytes(response.body))

    def disconnect(self) -> None:
        """Give up: the answer has no reader."""
        self.context.disconnect()
        if self._client is not None:
            self._client.cancel(self)


Direct = Callable[[Exchange, memoryview], None]
"""Begins to answer a request with this body.

Raises: ServiceError, which is the answer then.
"""


def through(app: ASGIApp) -> Direct:
    """Answer requests by an ASGI application."""
    return lambda exchange, body: exchange.run(app, bytes(body))
