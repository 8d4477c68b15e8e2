"""The hot routes of the Open Inference Protocol over HTTP: what they share, and `infer`.

Plain ASGI. It knows bodies and headers; what a request means is said in `request.py` and `execution.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Send

from service.errors import MalformedRequest, ServiceError
from service.http.accept import accepted_coding
from service.http.answers import encode_json
from service.http.body import read_body
from service.http.problems import open_inference_response
from service.http.request_context import RequestContext, Scope, context_of, request_timeout_seconds
from service.protocols.open_inference import codings
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.raw_request import raw_request
from service.protocols.open_inference.reply import Reply, write_reply
from service.protocols.open_inference.request import InferRequest, parse_request
from service.schema import shown
from service.settings import Settings

HEADER_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way through a route."""

    model: str
    version: str | None
    body: bytes
    scope: Scope
    context: RequestContext


class OpenInferenceRoute(ABC):
    """Base of the routes on `/v2/models/{model}[/versions/{version}]/...`."""

    def __init__(self, execution: Execution, settings: Settings, threads: ThreadPoolExecutor) -> None:
        self.execution = execution
        self.settings = settings
        self.threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or its error."""
        context = context_of(scope) or RequestContext("", 0.0)
        try:
            body = await read_body(scope, receive, context, self.settings.max_body_bytes, may_be_coded=True)
            body = await codings.decoded(body, scope["headers"], self.settings.max_body_bytes, self.threads)
            path = scope["path_params"]
            await self.answer(Asked(path["model"], path.get("version"), body, scope, context), send)
        except ServiceError as error:
            await open_inference_response(error)(scope, receive, send)

    @abstractmethod
    async def answer(self, asked: Asked, send: Send) -> None:
        """Send the answer.

        Raises: ServiceError, only as long as nothing was sent.
        """

    def timeout_seconds(self, asked: Asked) -> float:
        """The deadline that the caller asks for in `X-Request-Timeout`, or the default.

        Raises: InvalidParameter.
        """
        return request_timeout_seconds(asked.scope, self.settings)

    async def send_json(self, value: Any, asked: Asked, send: Send) -> None:
        """Answer with JSON values."""
        await self.send_reply(Reply((encode_json(value),), None), asked, send)

    async def send_reply(self, reply: Reply, asked: Asked, send: Send) -> None:
        """Answer with a body in a coding that the caller takes, where that may save something."""
        content = b"".join(reply.pieces)
        is_binary = reply.header_bytes is not None
        headers = [(b"content-type", b"application/octet-stream" if is_binary else b"application/json")]
        if reply.header_bytes is not None:
            headers.append((HEADER_LENGTH, b"%d" % reply.header_bytes))
        if len(content) >= codings.LEAST_CODED_BYTES:
            headers.append((b"vary", b"accept-encoding"))
            if coding := accepted_coding(asked.scope["headers"]):
                content = await codings.encoded(content, coding, self.threads)
                headers.append((b"content-encoding", coding.encode("ascii")))
        headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class Infer(OpenInferenceRoute):
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    async def answer(self, asked: Asked, send: Send) -> None:
        """Compute outputs of a model from tensors."""
        request = self._read(asked)
        answer = await self.execution.infer(
            asked.model, asked.version, request, asked.context, timeout_seconds=self.timeout_seconds(asked)
        )
        reply = write_reply(answer.model_name, answer.model_version, request, answer.outputs)
        await self.send_reply(reply, asked, send)

    def _read(self, asked: Asked) -> InferRequest:
        lengths = [value for name, value in asked.scope["headers"] if name == HEADER_LENGTH]
        if not lengths:
            return parse_request(asked.body, None)
        if len(lengths) > 1 or not (lengths[0].isdigit() and len(lengths[0]) < 16):
            told = shown(b", ".join(lengths).decode("latin-1"))
            raise MalformedRequest(f"Inference-Header-Content-Length is {told}; it must be a whole number of bytes.")
        header_bytes = int(lengths[0])
        if header_bytes:
            return parse_request(asked.body, header_bytes)
        return raw_request(self.execution.find(asked.model, asked.version), asked.body)
