"""Whether requests are traced, and the interface of a tracer.

OpenTelemetry is imported (`spans.py`) only when requests are traced: it is an optional dependency.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Protocol

from service.errors import StartupError
from service.http.request_context import RequestContext
from service.settings import Settings

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing(Protocol):
    """Makes the spans of requests."""

    def begin(self, request_id: str, started_at: float, headers: Mapping[str, str]) -> RequestContext:
        """Begin the span of a request; its headers may name the caller's span."""

    def end_http(self, context: RequestContext, method: str, route: str, status: int) -> None:
        """End the span of a request over HTTP."""

    def end_call(self, context: RequestContext, name: str, code: str) -> None:
        """End the span of a gRPC call."""

    async def close(self) -> None:
        """Send the remaining spans, within a bounded time."""


def open_tracing(settings: Settings, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Open the tracer, if requests are to be traced.

    Raises: StartupError if `otel_endpoint` is set and OpenTelemetry is not installed.
    """
    if not _is_requested(settings, environment):
        return None
    try:
        spans = importlib.import_module("service.telemetry.spans")
    except ModuleNotFoundError as error:
        missing = f"OpenTelemetry is not installed ({error.name!r} is missing)"
        if settings.otel_endpoint:
            raise StartupError(f"{missing}; otel_endpoint needs the extra `otel`.") from error
        # The variables may be meant for another program.
        log.warning("requests are not traced although OTEL_ variables are set: %s", missing)
        return None
    tracing: Tracing = spans.open_spans(settings.otel_endpoint, environment)
    return tracing


def _is_requested(settings: Settings, environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(settings.otel_endpoint or any(environment.get(name) for name in _ENDPOINTS))
