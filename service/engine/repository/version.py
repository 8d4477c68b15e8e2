"""One version of a model in the engine: its state, its graphs with their queues, who may still ask it, and its end.

It is loaded and given up by others (`live_repository.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from models.config import ModelConfig
from service.engine.batching.batcher import Scheduler
from service.engine.batching.response_cache import ResponseCache
from service.engine.batching.serving import ServedGraph, serve_graphs
from service.engine.generation.generator import Generator
from service.engine.repository.loading import LoadedVersion
from service.engine.repository.repository import Fingerprint
from service.engine.runtime.runtime import Device
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import ModelStatus
from service.settings import Settings
from service.telemetry.language_metrics import LanguageMetrics
from service.telemetry.metrics import Metrics


@dataclass(slots=True, eq=False)
class Version:
    """One version: its state, and its graphs once it is ready, with the generator of a language.

    `holders` are the API processes that may still send it requests although it is unloading.
    """

    status: ModelStatus
    config: ModelConfig = field(default_factory=ModelConfig)
    fingerprint: Fingerprint = ()
    graphs: dict[str, ServedGraph] = field(default_factory=dict)
    generator: Generator | None = None
    cache: ResponseCache | None = None
    holders: set[ApiConnection] = field(default_factory=set)

    @property
    def is_loaded(self) -> bool:
        """Whether it has graphs that can answer."""
        return bool(self.graphs or self.generator)

    @property
    def is_idle(self) -> bool:
        """Whether none of its graphs has anything to do."""
        queues = (graph.queue for graph in self.graphs.values())
        is_generating = self.generator is not None and not self.generator.is_idle
        return not is_generating and not any(queue.waiting_rows or queue.computing_rows for queue in queues)

    def close(self) -> None:
        """Let go of the graphs, which must be idle; their threads end."""
        for graph in self.graphs.values():
            graph.close()
        if self.generator is not None:
            self.generator.close()
        self.graphs, self.generator, self.cache = {}, None, None

    def described(self) -> ModelStatus:
        """Its state with what it has done so far."""
        statistics: dict[str, float] = {}
        if self.generator is not None:
            statistics |= self.generator.statistics()
        for name, graph in self.graphs.items():
            prefix = "" if len(self.graphs) == 1 and self.generator is None else f"{name}."
            statistics |= {prefix + key: value for key, value in graph.metrics.statistics().items()}
            statistics[prefix + "queued_rows"] = graph.queue.waiting_rows
            statistics[prefix + "queued_requests"] = graph.queue.num_waiting
        records = {name: graph.metrics.record.snapshot() for name, graph in self.graphs.items()}
        return msgspec.structs.replace(self.status, statistics=statistics, graph_statistics=records)


def open_version(
    loaded: LoadedVersion,
    config: ModelConfig,
    settings: Settings,
    device: Device,
    metrics: Metrics,
    scheduler: Scheduler,
    call_in_loop: Callable[..., object],
) -> Version:
    """Put a loaded version behind its queues, ready to answer."""
    name, version = loaded.manifest.name, loaded.manifest.version
    settings = settings.model_copy(update=config.overrides())
    graphs = serve_graphs(loaded, settings, scheduler, call_in_loop, metrics)
    generator = None
    if loaded.decoder is not None:
        of_language = LanguageMetrics(metrics, name, version)
        metrics.max_sequences.labels(name, version).set(loaded.decoder.decoder.num_slots)
        metrics.max_waiting_sequences.labels(name, version).set(settings.max_waiting_sequences)
        generator = Generator(loaded.decoder, settings, of_language, monotonic, call_in_loop, name)
    # A text that was drawn once is not the answer to the next who asks.
    cache = ResponseCache(config.cache_bytes) if config.cache_bytes and generator is None else None
    return Version(ready_status(loaded, config, device), config, (), graphs, generator, cache)


def ready_status(loaded: LoadedVersion, config: ModelConfig, device: Device) -> ModelStatus:
    """What is told of a version that is ready."""
    manifest, graphs, decoder = loaded.manifest, loaded.graphs, loaded.decoder
    seconds = {
        (str(bucket) if len(graphs) == 1 and decoder is None else f"{name}.{bucket}"): spent
        for name, graph in graphs.items()
        for bucket, spent in graph.bucket_seconds.items()
    }
    status = ModelStatus(
        name=manifest.name,
        version=manifest.version,
        state="ready",
        manifest=manifest.to_json(),
        config=config.to_json(),
        device=str(device),
        golden_error=max((graph.golden_error for graph in graphs.values()), default=0.0),
        load_seconds=loaded.load_seconds,
        bucket_seconds=seconds,
    )
    if decoder is None:
        first = next(iter(graphs.values()))
        return msgspec.structs.replace(
            status,
            providers=first.providers,
            max_batch_size=first.batching.max_batch_size,
            buckets=first.batching.buckets,
            instances=len(first.runners),
            threads=first.num_threads,
        )
    steps = decoder.cost.decode_seconds
    return msgspec.structs.replace(
        status,
        providers=decoder.providers,
        max_batch_size=decoder.decoder.num_slots,
        buckets=tuple(steps),
        instances=1,
        threads=decoder.num_threads,
        golden_error=max(status.golden_error, decoder.golden_error),
        bucket_seconds={f"decode.{size}": spent for size, spent in steps.items()} | seconds,
    )
