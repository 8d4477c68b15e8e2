"""The request middleware around applications that fail or drain."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.transport.client import EngineClient
from service.errors import QueueFull
from service.http.health import Readiness, readiness
from service.http.middleware import Drain, RequestCycle, RequestMiddleware
from service.settings import Settings
from service.telemetry.metrics import Metrics


async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def defective(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret at 0x7ff3")


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    raise QueueFull("Full.", retry_after_seconds=2)


def serve(app: ASGIApp, drain: Drain, path: str = "/v1/models") -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one request to an application in the middleware."""
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    envelope = RequestMiddleware(app, RequestCycle(Settings(), Metrics(CollectorRegistry()), drain))
    asyncio.run(envelope({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


def test_an_unexpected_exception_is_answered_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    drain = Drain()

    status, headers, body = serve(defective, drain)

    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert b"secret" not in body
    assert headers[b"x-request-id"]
    assert drain.num_in_flight == 0
    assert "secret" in caplog.text


def test_a_service_error_is_rendered_wherever_it_was_raised() -> None:
    status, headers, _ = serve(busy, Drain())

    assert (status, headers[b"retry-after"]) == (503, b"2")


def test_a_draining_process_answers_and_asks_to_close() -> None:
    drain = Drain()
    drain.is_draining = True

    status, headers, _ = serve(healthy, drain)

    assert (status, headers[b"connection"]) == (200, b"close")


def test_a_refusing_process_still_answers_probes() -> None:
    drain = Drain()
    drain.is_draining = drain.is_refusing = True

    status, headers, body = serve(healthy, drain)

    assert (status, json.loads(body)["code"], headers[b"retry-after"]) == (503, "shutting_down", b"1")
    assert serve(healthy, drain, "/livez")[0] == 200


def test_readiness_distinguishes_draining_from_starting() -> None:
    async def states() -> tuple[Readiness, Readiness]:
        client, drain = EngineClient(["/nowhere"], Settings()), Drain()
        starting = readiness(client, drain)
        drain.is_draining = True
        return starting, readiness(client, drain)

    starting, draining = asyncio.run(states())

    assert (starting.status, draining.status) == ("starting", "draining")
