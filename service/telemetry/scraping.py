"""What a scrape of `/metrics` gets: the metrics of all processes, readiness, and the names of other servers.

All of it is computed on each scrape. It knows neither routes nor HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client.core import GaugeMetricFamily

from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ModelStatus
from service.errors import ServiceError
from service.settings import Settings
from service.telemetry.compatible_names import Own, triton_metrics, vllm_metrics, write
from service.telemetry.metrics import READY_HELP, READY_NAME, Metrics, exposition, gather

# A scrape must not wait for an engine that is being restarted.
ENGINE_SECONDS = 1.0


class Scraping:
    """Answers scrapes in one API process."""

    def __init__(
        self, client: EngineClient, metrics: Metrics, settings: Settings, is_ready: Callable[[], bool]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._names = settings.metrics_compat
        self._is_ready = is_ready

    async def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        statuses = await self._statuses() if "triton" in self._names else ()
        return await asyncio.to_thread(self._text, self._is_ready(), statuses)

    async def _statuses(self) -> Sequence[ModelStatus]:
        """What the engine says of its models; nothing where that takes long: old counts would seem to have fallen."""
        try:
            async with asyncio.timeout(ENGINE_SECONDS):
                return await self._client.ask_statuses()
        except (ServiceError, TimeoutError):
            return ()

    def _text(self, is_ready: bool, statuses: Sequence[ModelStatus]) -> bytes:
        metrics = gather(self._metrics.registry)
        metrics.append(GaugeMetricFamily(READY_NAME, READY_HELP, value=is_ready))
        text = exposition(metrics)
        if not self._names:
            return text
        own = Own(metrics)
        if "triton" in self._names:
            text += write(triton_metrics(own, statuses))
        if "vllm" in self._names:
            text += write(vllm_metrics(own))
        return text
