"""Probes and metrics: is this process alive, may it be sent requests, what has it done. No model is touched."""

from __future__ import annotations

import asyncio
import gzip
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.engine.transport.client import EngineClient
from service.http.accept import takes_gzip
from service.http.middleware import Drain
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.scraping import Scraping

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


class Readiness(BaseModel):
    """Whether every wanted model is served, and which are not."""

    status: Literal["ready", "starting", "degraded", "draining"]
    not_ready: dict[str, str] = {}


def readiness(client: EngineClient, drain: Drain) -> Readiness:
    """Say whether this process may be sent requests, and if not, what is missing."""
    if drain.is_draining:
        return Readiness(status="draining")
    if client.is_ready:
        return Readiness(status="ready")
    unready = set(client.unready)
    missing = {s.name: f"{s.state}: {s.reason}" if s.reason else s.state for s in client.statuses if s.name in unready}
    if not client.is_connected:
        return Readiness(status="starting", not_ready=dict.fromkeys(missing, "the engine is not connected"))
    return Readiness(status="degraded" if client.is_settled else "starting", not_ready=missing)


def health_router(client: EngineClient, metrics: Metrics, drain: Drain, settings: Settings) -> APIRouter:
    """The routes of probes and metrics."""
    router = APIRouter(tags=["operations"])
    scraping = Scraping(client, metrics, settings, lambda: readiness(client, drain).status == "ready")

    @router.get("/livez")
    async def livez() -> Live:
        """Say that this process answers; it does so also while it starts and drains."""
        return Live()

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "Not every wanted model is ready."}})
    async def readyz(response: Response) -> Readiness:
        """Say whether every wanted model is loaded, has reproduced its golden outputs and is warm."""
        state = readiness(client, drain)
        response.status_code = 200 if state.status == "ready" else 503
        return state

    @router.get("/metrics", response_class=Response, responses={200: {"content": {EXPOSITION_TYPE: {}}}})
    async def prometheus_metrics(request: Request) -> Response:
        """All metrics of all processes, in the Prometheus text format."""
        headers = {"Vary": "Accept-Encoding"}
        content = await scraping.text()
        if takes_gzip(request.scope):  # as Prometheus does: a tenth of the bytes
            content = await asyncio.to_thread(gzip.compress, content, 1)
            headers["Content-Encoding"] = "gzip"
        return Response(content, headers=headers, media_type=EXPOSITION_TYPE)

    return router
