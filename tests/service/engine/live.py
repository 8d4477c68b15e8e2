"""An engine with a client in the test's own process, over a real socket: what the tests of a live repository share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service.engine.engine import Engine, EngineProtocol
from service.engine.repository.load_journal import LoadJournal
from service.engine.repository.repository import find_models
from service.engine.runtime.runtime import Device
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import GraphStatistics, ModelStatus
from service.settings import Settings
from service.telemetry.metrics import Metrics


@asynccontextmanager
async def live_engine(
    socket: Path, settings: Settings, *names: str, journal: LoadJournal | None = None
) -> AsyncIterator[tuple[Engine, EngineClient]]:
    """An engine that serves these models of its repositories (all, unless models are loaded on request)."""
    engine = Engine(settings, Device("cpu"), Metrics(CollectorRegistry()), journal)
    found = find_models(settings.repositories, names)
    await engine.load(found if names or settings.model_control != "explicit" else {})
    server = await asyncio.get_running_loop().create_unix_server(lambda: EngineProtocol(engine), str(socket))
    client = EngineClient([str(socket)], settings)
    connection = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(60):
            while not client.is_settled:
                await asyncio.sleep(0.005)
        yield engine, client
    finally:
        client.close()
        await connection
        server.close()


async def ask(client: EngineClient, reference: str, x: NDArray[Any], **options: Any) -> NDArray[Any]:
    """What the model answers as `y` to an array of rows `x`."""
    model = client.resolve(reference)
    arrays, _ = await client.infer(model, "model", ("y",), [x.tobytes()], len(x), 20.0, **options)
    return np.array(arrays["y"])


def state_of(client: EngineClient, name: str, version: str = "1") -> ModelStatus:
    """The status of a version as the client knows it."""
    return next(status for status in client.statuses if (status.name, status.version) == (name, version))


async def unloaded(client: EngineClient) -> None:
    """Wait until no version is unloading any more."""
    async with asyncio.timeout(20):
        while any(status.state == "unloading" for status in client.statuses):
            await asyncio.sleep(0.005)


async def statistics_of(client: EngineClient, name: str, version: str = "1") -> GraphStatistics:
    """What the only graph of a version has done."""
    statuses = await client.describe()
    status = next(status for status in statuses if (status.name, status.version) == (name, version))
    return status.graph_statistics["model"]
