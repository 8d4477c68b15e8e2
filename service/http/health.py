"""Probes, Prometheus metrics and the device's timeline. None runs a model."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta
from starlette.responses import Response
from starlette.types import Receive, Send

from service.engine.transport.client import EngineClient
from service.http.accept import accepts_gzip
from service.http.answers import encode_json
from service.http.body import read_query
from service.http.documentation import PROBLEMS
from service.http.middleware import Drain
from service.http.request_context import Scope, caller_of
from service.http.routing import Document, Route, json_handler
from service.schema import Answer, Parameters, properties
from service.security import Access
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.scraping import Scraping
from service.telemetry.timeline import TraceFile, trace_file
from service.threads import off_loop

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TAG = "operations"


class Live(Answer):
    """The process is alive."""

    status: Literal["live"]


class Readiness(Answer):
    """Whether all models are ready, and the reasons for those that are not."""

    status: Literal["ready", "starting", "degraded", "draining"]
    not_ready: dict[str, str]


class TraceParameters(Parameters):
    """What `/v1/trace` takes."""

    seconds: Annotated[float, Meta(gt=0, le=60, description="How far back the trace begins.")] = 2.0


def readiness(client: EngineClient, drain: Drain) -> Readiness:
    """Return whether this process can serve requests, and which models are missing."""
    if drain.is_draining:
        return Readiness(status="draining", not_ready={})
    if client.is_ready:
        return Readiness(status="ready", not_ready={})
    unready = set(client.unready)
    wanted = [status for status in client.statuses if status.is_required and status.name in unready]
    missing = {s.name: f"{s.state}: {s.reason}" if s.reason else s.state for s in wanted}
    if not client.is_connected:
        names = list(missing) or ["engine"]
        return Readiness(status="starting", not_ready=dict.fromkeys(names, "loading: the engine is not connected"))
    return Readiness(status="degraded" if client.is_settled else "starting", not_ready=missing)


def health_routes(client: EngineClient, metrics: Metrics, drain: Drain, settings: Settings) -> list[Route]:
    """The routes of probes and metrics."""
    scraping = Scraping(client, metrics, settings, lambda: readiness(client, drain).status == "ready")

    async def livez(_scope: Scope) -> Live:
        return Live(status="live")

    async def readyz(scope: Scope, receive: Receive, send: Send) -> None:
        state = readiness(client, drain)
        status = 200 if state.status == "ready" else 503
        await Response(encode_json(state), status, media_type="application/json")(scope, receive, send)

    async def prometheus_metrics(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Vary": "Accept-Encoding"}
        content = await scraping.text()
        if accepts_gzip(scope):  # Prometheus does: a tenth of the bytes
            content = await asyncio.to_thread(gzip.compress, content, 1)
            headers["Content-Encoding"] = "gzip"
        await Response(content, headers=headers, media_type=EXPOSITION_TYPE)(scope, receive, send)

    async def trace(scope: Scope, receive: Receive, send: Send) -> None:
        seconds = read_query(scope, TraceParameters).seconds
        traced, caller = await client.trace(seconds), caller_of(scope)
        quanta = [quantum for quantum in traced.quanta if caller.may_use(quantum.model)]
        content = await off_loop(lambda: encode_json(trace_file(quanta, traced.now - seconds, traced.now)))
        await Response(content, media_type="application/json")(scope, receive, send)

    to_metrics: Access = "metrics" if settings.metrics_need_key else "public"
    return [
        Route("GET", "/livez", json_handler(livez), _LIVEZ, access="public"),
        Route("GET", "/readyz", readyz, _READYZ, access="public"),
        Route("GET", "/health", readyz, _HEALTH, access="public"),
        Route("GET", "/metrics", prometheus_metrics, _METRICS, access=to_metrics),
        Route("GET", "/v1/trace", trace, _TRACE, access="admin"),
    ]


_LIVEZ = Document(
    summary="Is this process alive?",
    description="Answers during startup and drain too.",
    request={},
    responses={},
    answers=(Live,),
    tag=TAG,
)
_READYZ = Document(
    summary="Can this process take requests?",
    description="Ready: every model of the start, and each that has been ready since, is loaded, has reproduced its "
    "golden outputs and is warmed up, or gave its memory back and is loaded again for the next request.",
    request={},
    responses={503: {"model": Readiness, "description": "Not every model is ready, or the service is draining."}},
    answers=(Readiness,),
    tag=TAG,
)
_HEALTH = replace(_READYZ, description="`/readyz` by the name under which other model servers' clients look for it.")
_METRICS = Document(
    summary="Prometheus metrics",
    description="The metrics of all processes, in the text format.",
    request={},
    responses={200: {"content": {EXPOSITION_TYPE: {}}}},
    tag=TAG,
)
_TRACE = Document(
    summary="The device's timeline: who ran when, in which batch.",
    description="In the Trace Event Format, which ui.perfetto.dev opens: batches with their rows and why they left "
    "the queue, chunks of prompts with their tokens, steps of language models with their texts; a process a model, a "
    "thread an instance. It holds what ended in the time that was asked for, of the last 8,192.",
    request={
        "parameters": [
            {"name": name, "in": "query", "schema": each} for name, each in properties(TraceParameters).items()
        ]
    },
    responses={503: PROBLEMS[503]},
    answers=(TraceFile,),
    tag=TAG,
)
