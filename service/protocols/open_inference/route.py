"""What the routes of the Open Inference Protocol over HTTP share: how they are declared, content codings, sending.

A route is one class whose attributes declare its paths and what OpenAPI shows.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.types import Receive, Send

from service.budget import SMALL_BYTES, Reservation
from service.errors import MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.http.accept import Headers, accepted_coding
from service.http.answers import EventAnswer, encode_json, send_answer
from service.http.body import read_body
from service.http.direct import Direct, HeaderPairs
from service.http.middleware import Drain
from service.http.request_context import RequestContext, Scope, context_of, request_timeout_seconds
from service.http.routing import Document, Responses
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.reply import Reply
from service.protocols.open_inference.schema import error_responses
from service.schema import shown
from service.security import Access
from service.threads import off_loop

HEADER_LENGTH = b"inference-header-content-length"
TAG = "open inference protocol"
MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"
INFERENCE_ERRORS = error_responses(400, 404, 415, 500, 501, 503)


@dataclass(frozen=True, slots=True)
class OpenInferenceRequest:
    """One request: the parameters in its path, and its body without content coding."""

    path: Mapping[str, str]
    body: bytes
    scope: Scope
    context: RequestContext

    @property
    def model(self) -> str:
        """The model's name in the path."""
        return self.path["model"]

    @property
    def version(self) -> str | None:
        """The version in the path, if there is one."""
        return self.path.get("version")


class OpenInferenceRoute(ABC):
    """Base of the routes under /v2: plain ASGI applications, for some of them are the hot path.

    The docstring of `answer` is the summary in OpenAPI, `description` says the rest. Errors are rendered by the
    middleware.
    """

    paths: ClassVar[tuple[str, ...]]
    access: ClassVar[Access]
    method: ClassVar[str] = "GET"
    description: ClassVar[str]
    request_document: ClassVar[Mapping[str, Any]] = {}
    answers: ClassVar[tuple[Any, ...]] = ()
    responses: ClassVar[Responses] = error_responses()

    direct: Direct | None = None

    def __init__(self, execution: Execution, drain: Drain) -> None:
        self.execution = execution
        self.drain = drain
        self._max_bytes = execution.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises: ServiceError, only as long as nothing was sent.
        """
        context = context_of(scope) or RequestContext("", 0.0)
        body = b""
        if self.method == "POST":
            body = await read_body(scope, receive, context, self._max_bytes, may_be_coded=True)
            body = await decoded(body, scope["headers"], self._max_bytes, context.reservation)
        answer = await self.answer(OpenInferenceRequest(scope["path_params"], body, scope, context))
        if isinstance(answer, EventAnswer):
            await send_answer(answer, send, context)
        else:
            reply = answer if isinstance(answer, Reply) else Reply((encode_json(answer),))
            headers, content = await coded(reply, accepted_coding(scope["headers"]))
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    @abstractmethod
    async def answer(self, request: OpenInferenceRequest) -> Any:
        """The answer as JSON values, as a Reply or as events.

        Raises: ServiceError.
        """

    @classmethod
    def document(cls) -> Document:
        """What OpenAPI shows."""
        summary = (cls.answer.__doc__ or "").strip()
        return Document(
            summary=summary,
            description=cls.description,
            request=cls.request_document,
            responses=cls.responses,
            answers=cls.answers,
            tag=TAG,
        )

    def timeout_seconds(self, request: OpenInferenceRequest) -> float:
        """The deadline in `X-Request-Timeout`, or the default.

        Raises: InvalidParameter.
        """
        return request_timeout_seconds(request.scope, self.execution.settings)


def uncoded(reply: Reply) -> tuple[HeaderPairs, bytes]:
    """The headers and the content of a reply."""
    content = b"".join(reply.pieces)
    return reply_headers(reply, len(content), ""), content


async def coded(reply: Reply, coding: str) -> tuple[HeaderPairs, bytes]:
    """The same, in a coding that the caller takes (empty for none) where that may save something."""
    headers, content = uncoded(reply)
    if len(content) < MIN_CODED_BYTES or not coding:
        return headers, content
    content = await encoded(content, coding)
    return reply_headers(reply, len(content), coding), content


def reply_headers(reply: Reply, content_bytes: int, coding: str) -> list[tuple[bytes, bytes]]:
    """The headers of a reply whose content is in a coding; empty for none."""
    json_bytes = reply.header_bytes
    headers = [(b"content-type", b"application/json" if json_bytes is None else b"application/octet-stream")]
    if json_bytes is not None:
        headers.append((HEADER_LENGTH, b"%d" % json_bytes))
    if coding or content_bytes >= MIN_CODED_BYTES:
        headers.append((b"vary", b"accept-encoding"))
    if coding:
        headers.append((b"content-encoding", coding.encode("ascii")))
    headers.append((b"content-length", b"%d" % content_bytes))
    return headers


# --- Content codings (RFC 9110): inflated within a limit, deflated for callers that accept it ---

# zlib's window bits: 15 with zlib's own frame, which is what "deflate" means, 16 more for gzip's.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_WINDOW_BITS = -15
# Up to so many bytes, zlib takes less time than handing them to a thread and back.
INLINE_BYTES = 16 * 1024
_FIRST_SLICE_BYTES, _LAST_SLICE_BYTES = 256, 2**20
# Below this, coding costs more than it saves.
MIN_CODED_BYTES = 1024
_FASTEST = 1


async def decoded(body: bytes, headers: Headers, max_bytes: int, reservation: Reservation | None = None) -> bytes:
    """The body without its content coding; inflating stops at `max_bytes`, and where there is no room.

    Raises: UnsupportedMedia, MalformedRequest, PayloadTooLarge, Busy.
    """
    codings = [value for name, value in headers if name == b"content-encoding"]
    coding = b",".join(codings).decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW_BITS:
        raise UnsupportedMedia(f"The Content-Encoding is {shown(coding)}; it must be gzip, deflate or identity.")
    if len(body) <= INLINE_BYTES // 16:
        return inflate(body, coding, max_bytes, reservation)
    return await off_loop(inflate, body, coding, max_bytes, reservation)


def inflate(body: bytes, coding: str, max_bytes: int, reservation: Reservation | None = None) -> bytes:
    """Inflate a body: one stream of deflate, or the members of gzip one after the other (RFC 1952 section 2.2).

    `deflate` may also come without zlib's frame, as some senders understand it. What it inflates to is set aside in the
    reservation, as it comes.

    Raises: MalformedRequest, PayloadTooLarge; Busy where there is no room for it.
    """
    window_bits = _WINDOW_BITS[coding]
    if coding == "deflate" and not _has_zlib_frame(body):
        window_bits = _RAW_WINDOW_BITS
    content, rest = _Content(max_bytes, reservation or Reservation()), memoryview(body)
    while True:
        inflater = zlib.decompressobj(window_bits)
        try:
            rest = content.add_stream(inflater, rest)
        except zlib.error as error:
            raise MalformedRequest(f"The body is not what its Content-Encoding says: {coding}.") from error
        if content.room < 0:
            raise PayloadTooLarge(f"The body has more than {max_bytes} bytes without its Content-Encoding.")
        if not inflater.eof or (rest and coding == "deflate"):
            raise MalformedRequest(f"The body is not one whole {coding} stream.")
        if not rest:
            return b"".join(content.pieces)


class _Content:
    """What was inflated so far; `room` is left of the limit."""

    def __init__(self, max_bytes: int, reservation: Reservation) -> None:
        self.pieces: list[bytes] = []
        self.room = max_bytes
        self._max_unreserved_bytes = SMALL_BYTES
        self._num_bytes = 0
        self._reservation = reservation

    def add_stream(self, inflater: Any, body: memoryview) -> memoryview:
        """Inflate to the end of one stream, or one byte beyond the room; return what follows."""
        # What follows the end is copied: slices that grow with the stream keep that linear, however many members there
        # are.
        slice_bytes, is_full = _FIRST_SLICE_BYTES, False
        while (body or is_full) and self.room >= 0 and not inflater.eof:
            max_piece_bytes = min(self.room + 1, _LAST_SLICE_BYTES)
            piece = inflater.decompress(body[:slice_bytes], max_piece_bytes)
            is_full = len(piece) == max_piece_bytes
            self._add(piece)
            num_left = len(inflater.unused_data) + len(inflater.unconsumed_tail)
            body = body[min(slice_bytes, len(body)) - num_left :]
            slice_bytes = min(2 * slice_bytes, _LAST_SLICE_BYTES)
        return body

    def _add(self, piece: bytes) -> None:
        self.room -= len(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > self._max_unreserved_bytes:
            self._reservation.grow(self._num_bytes - self._max_unreserved_bytes, "the inflated body")
            self._max_unreserved_bytes = self._num_bytes
        self.pieces.append(piece)


def _has_zlib_frame(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


async def encoded(content: bytes, coding: str) -> bytes:
    """The content in a coding, gzip or deflate."""
    if len(content) <= INLINE_BYTES:
        return deflate(content, coding)
    return await off_loop(deflate, content, coding)


def deflate(content: bytes, coding: str) -> bytes:
    """Code as gzip, or as deflate in zlib's frame."""
    deflater = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS[coding])
    return deflater.compress(content) + deflater.flush()
