"""The statistics of a graph: the parts add up to the nanosecond."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.engine.transport.messages import GraphStatistics
from service.errors import ServiceError
from service.settings import Settings
from service.telemetry.graph_statistics import GraphRecord
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.service.engine.live import ask, live_engine, statistics_of

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def parts_of(statistics: GraphStatistics) -> int:
    parts = (
        statistics.queue,
        statistics.compute_input,
        statistics.compute_infer,
        statistics.compute_output,
        statistics.cache_hit,
    )
    return sum(part.ns for part in parts)


def test_the_parts_of_a_request_add_up_whatever_the_clocks_say() -> None:
    record = GraphRecord(clock=lambda: 12.5)

    record.answered(3, (1.0, 1.25, 1.2, 2.0, 1.9))
    record.computed(3, (1.25, 1.2, 2.0, 1.9))
    record.failed(-0.1)
    statistics = record.snapshot()

    assert (statistics.inference_count, statistics.execution_count, statistics.last_inference_ms) == (3, 1, 12500)
    assert (statistics.success.count, statistics.success.ns) == (1, 1_000_000_000)
    assert (statistics.fail.count, statistics.fail.ns) == (1, 0)
    assert (statistics.queue.ns, statistics.compute_input.ns) == (250_000_000, 0)
    assert (statistics.compute_infer.ns, statistics.compute_output.ns) == (750_000_000, 0)
    [batch] = statistics.batches
    assert (batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) == (3, 1, 750_000_000)


@pytest.mark.parametrize("cache_bytes", [0, 100_000])
def test_counts_of_a_busy_graph_add_up(tmp_path: Path, cache_bytes: int) -> None:
    repository = tmp_path / "repository"
    write_bare(repository, "scale", scale_bytes(2))
    limits = f"max_batch_size = 4\nmax_queue_rows = 20\ncache_bytes = {cache_bytes}\n"
    (repository / "scale" / "config.toml").write_text(limits)
    settings = Settings(repository=(repository,), instances=2, threads=1)

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings) as (_, client):
            arrays = [np.full((1 + i % 5, 3), i % 7, np.float32) for i in range(60)]
            calls = (ask(client, "scale", x, priority=i % 4) for i, x in enumerate(arrays))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            again = await ask(client, "scale", arrays[0])
            statistics = await statistics_of(client, "scale")

            good = [(x, y) for x, y in zip(arrays, answers, strict=True) if not isinstance(y, BaseException)]
            assert all(isinstance(y, np.ndarray | ServiceError) for y in answers)
            assert all(np.array_equal(y, 2 * x) for x, y in good)
            assert np.array_equal(again, 2 * arrays[0])
            assert statistics.success.count == len(good) + 1
            assert statistics.fail.count == len(answers) - len(good)
            assert statistics.success.ns == parts_of(statistics)
            computed = statistics.success.count - statistics.cache_hit.count
            parts = (statistics.queue, statistics.compute_input, statistics.compute_infer, statistics.compute_output)
            assert {part.count for part in parts} == {computed}
            assert statistics.execution_count == sum(batch.compute_infer.count for batch in statistics.batches)
            rows = sum(batch.batch_size * batch.compute_infer.count for batch in statistics.batches)
            assert statistics.inference_count == rows
            if cache_bytes:
                assert statistics.cache_hit.count >= 1
                assert statistics.cache_hit.count + statistics.cache_miss.count == len(answers) + 1
            else:
                assert statistics.inference_count == sum(len(x) for x, _ in good) + len(again)
                assert (statistics.cache_hit.count, statistics.cache_miss.count) == (0, 0)

    asyncio.run(main())


def test_a_model_that_is_loaded_again_begins_to_count_anew_and_caches_anew(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_bare(repository, "scale", scale_bytes(2))
    (repository / "scale" / "config.toml").write_text("cache_bytes = 100000\n")
    settings = Settings(repository=(repository,), instances=1, threads=1, model_control="explicit")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings, "scale") as (_, client):
            for _ in range(3):
                assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            first = await statistics_of(client, "scale")
            assert (first.success.count, first.cache_hit.count, first.execution_count) == (3, 2, 1)

            write_bare(repository, "scale", scale_bytes(5))
            await client.load("scale")
            assert np.array_equal(await ask(client, "scale", ROWS), 5 * ROWS)
            second = await statistics_of(client, "scale")
            assert (second.success.count, second.cache_hit.count) == (1, 0)

    asyncio.run(main())
