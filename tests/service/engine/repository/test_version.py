from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.engine.batching.batches import Request
from service.engine.device_turns import DeviceTurns, Share
from service.engine.repository.loading import LoadedVersion, load_version
from service.engine.repository.version import open_graphs
from service.engine.runtime.runtime import Device
from service.engine.transport.messages import InferenceTiming
from service.errors import ServiceError
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.fake_models.style_transfer import write_stylizer
from tests.service.engine.fakes import FakeLoop

SETTINGS = Settings(instances=2, threads=1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedVersion:
    folder = tmp_path_factory.mktemp("style-transfer")
    write_stylizer(folder)
    return load_version(folder / "tiny-stylizer" / "1", SETTINGS, Device("cpu"))


@pytest.mark.parametrize(
    ("seconds_of_four", "sizes"),
    [(4.2, [1, 1, 1, 1]), (2.0, [4, 4, 4, 4])],
    ids=["rows that cost the same are spread", "rows that cost less together share a batch"],
)
def test_batches_of_varying_rows_are_as_large_as_it_pays(
    loaded: LoadedVersion, seconds_of_four: float, sizes: list[int]
) -> None:
    graphs = {key: replace(g, bucket_seconds={1: 1.0, 4: seconds_of_four}) for key, g in loaded.graphs.items()}
    loop = FakeLoop()
    calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    metrics = Metrics(CollectorRegistry())
    version = replace(loaded, graphs=graphs)
    share = Share(DeviceTurns(2, lambda: loop.now))
    served = open_graphs(version, SETTINGS, loop, lambda *call: calls.put(call), metrics, lambda *_: None, share)
    receipts: list[ServiceError | InferenceTiming] = []
    row = bytes(96 * 128 * 3 + 3 * 4)
    for _ in range(4):
        request = Request(
            1, row, ("painting",), loop.now, 1e9, lambda _, outcome: receipts.append(outcome), ((96, 128, 3), (3,))
        )
        served["model"].queue.submit(request)
    loop.advance()
    while len(receipts) < 4:
        callback, *arguments = calls.get(timeout=30)
        callback(*arguments)
        loop.advance()

    assert [timing.batch_size for timing in receipts if isinstance(timing, InferenceTiming)] == sizes
