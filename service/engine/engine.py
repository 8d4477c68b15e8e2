"""The engine: the wanted models with their batchers, and the answers to every message.

It lives in the engine process's event loop; loading happens in a thread. It knows connections only as something that
takes frames.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import msgspec

from service.engine.batches import Receipt, Request
from service.engine.generator import Generator
from service.engine.loading import LoadedVersion, load_version
from service.engine.messages import (
    Cancel,
    Describe,
    Description,
    Generate,
    Infer,
    Message,
    ModelStatus,
    Result,
    frame,
)
from service.engine.peers import Peer, Send, failure_frame
from service.engine.runtime import Device
from service.engine.serving import ServedGraph, serve_graphs
from service.engine.version_files import VersionRejected
from service.errors import InvalidParameter, ModelNotReady, ServiceError, UnsupportedTask
from service.language_metrics import LanguageMetrics
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Version:
    """One version that was asked for: its state, and its graphs once it is ready, with the generator of a language."""

    status: ModelStatus
    graphs: dict[str, ServedGraph] = field(default_factory=dict)
    generator: Generator | None = None


class Engine:
    """Loads the wanted models and answers requests for them."""

    def __init__(self, settings: Settings, device: Device, metrics: Metrics) -> None:
        self._settings = settings
        self._device = device
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._versions: dict[tuple[str, str], Version] = {}
        self._peers: set[Peer] = set()
        self._is_settled = False

    # --- models ---

    async def load(self, wanted: dict[str, list[Path]]) -> None:
        """Load the newest version of each model that proves fit; older ones stand in for those that do not."""
        for name, folders in wanted.items():
            self._set_status(ModelStatus(name, folders[0].name, "loading"))
        for folders in wanted.values():
            for folder in folders:
                if await self._load_version(folder):
                    break
        self._is_settled = True
        self._announce()

    async def _load_version(self, folder: Path) -> bool:
        name, version = folder.parent.name, folder.name
        self._set_status(ModelStatus(name, version, "loading"))
        try:
            loaded = await asyncio.to_thread(load_version, folder, self._settings, self._device)
        except VersionRejected as error:
            log.error("a model version was rejected", extra={"model": name, "version": version, "reason": str(error)})
            self._set_status(ModelStatus(name, version, "failed", reason=str(error)))
            return False
        self._serve(loaded)
        return True

    def _serve(self, loaded: LoadedVersion) -> None:
        name, version = loaded.manifest.name, loaded.manifest.version
        call = self._loop.call_soon_threadsafe
        graphs = serve_graphs(loaded, self._settings, self._loop, call, self._metrics)
        generator = None
        if loaded.decoder is not None:
            metrics = LanguageMetrics(self._metrics, name, version)
            generator = Generator(loaded.decoder, self._settings, metrics, monotonic, call, name)
        status = _ready_status(loaded, self._device)
        self._set_status(status, graphs, generator)
        log.info(
            "a model is ready",
            extra={
                "model": status.name,
                "version": status.version,
                "device": status.device,
                "instances": status.instances,
                "threads": status.threads,
                "golden_error": f"{status.golden_error:.2g}",
                "seconds": round(status.load_seconds, 2),
            },
        )

    def _set_status(
        self, status: ModelStatus, graphs: dict[str, ServedGraph] | None = None, generator: Generator | None = None
    ) -> None:
        self._versions[status.name, status.version] = Version(status, graphs or {}, generator)
        self._metrics.set_model_state(status.name, status.version, status.state)
        self._announce()

    def _announce(self) -> None:
        message = self._description(0)
        for peer in self._peers:
            peer.send(message)

    def _description(self, id_: int) -> bytes:
        models = []
        for version in self._versions.values():
            statistics: dict[str, float] = {}
            if version.generator is not None:
                statistics |= version.generator.statistics()
            for name, graph in version.graphs.items():
                prefix = "" if len(version.graphs) == 1 and version.generator is None else f"{name}."
                statistics |= {prefix + key: value for key, value in graph.metrics.statistics().items()}
                statistics[prefix + "queued_rows"] = graph.queue.waiting_rows
            models.append(msgspec.structs.replace(version.status, statistics=statistics))
        return frame(Description(id_, tuple(models), self._is_settled))

    # --- peers ---

    def connect(self, send: Send) -> Peer:
        """Greet an API process with the state of every model."""
        peer = Peer(send)
        self._peers.add(peer)
        send(self._description(0))
        return peer

    def disconnect(self, peer: Peer) -> None:
        """Forget an API process and all that it waited for."""
        self._peers.discard(peer)
        for cancel in list(peer.cancels.values()):
            cancel()

    def handle(self, peer: Peer, message: Message, payload: memoryview) -> None:
        """Act on one message of an API process."""
        if isinstance(message, Infer | Generate):
            try:
                if isinstance(message, Infer):
                    self._infer(peer, message, payload)
                else:
                    self._generate(peer, message, payload)
            except ServiceError as error:
                peer.send(failure_frame(message.id, error))
        elif isinstance(message, Cancel):
            if message.id in peer.cancels:
                peer.cancels[message.id]()
        elif isinstance(message, Describe):
            peer.send(self._description(message.id))

    def _ready(self, message: Infer | Generate) -> Version:
        version = self._versions.get((message.model, message.version))
        if version is None or version.status.state != "ready":
            raise ModelNotReady(f"{message.model}@{message.version} is not loaded.", retry_after_seconds=1)
        return version

    def _generate(self, peer: Peer, message: Generate, payload: memoryview) -> None:
        generator = self._ready(message).generator
        if generator is None:
            raise UnsupportedTask(f"{message.model!r} is no language model.")
        generator.generate(peer, message, payload)

    def _infer(self, peer: Peer, message: Infer, payload: memoryview) -> None:
        version = self._ready(message)
        served = version.graphs.get(message.graph)
        if served is None:
            raise InvalidParameter(f"{message.model!r} has no graph {message.graph!r}; it has {list(version.graphs)}.")
        row_bytes = served.rules.row_bytes(message.row_shapes)
        if message.num_rows < 1 or len(payload) != message.num_rows * row_bytes:
            raise InvalidParameter(f"{len(payload)} bytes are not {message.num_rows} rows of {row_bytes} bytes.")
        known = {spec.name for spec in served.graph.outputs}
        if not message.outputs or not known.issuperset(message.outputs):
            raise InvalidParameter(f"The outputs {list(message.outputs)} are not among {sorted(known)}.")
        now = self._loop.time()

        def on_done(request: Request, outcome: ServiceError | Receipt) -> None:
            peer.cancels.pop(message.id, None)
            peer.send(_answer(message.id, request, outcome))

        deadline = now + message.timeout_seconds
        request = Request(message.num_rows, payload, message.outputs, now, deadline, on_done, message.row_shapes)
        peer.cancels[message.id] = lambda: served.queue.cancel(request)
        served.queue.submit(request)


def _answer(id_: int, request: Request, outcome: ServiceError | Receipt) -> bytes:
    if isinstance(outcome, ServiceError):
        return failure_frame(id_, outcome)
    arrays = request.joined()
    outputs = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
    result = Result(id_, outcome.queue_seconds, outcome.compute_seconds, outcome.batch_size, outputs)
    return frame(result, *(array.tobytes() for array in arrays.values()))


def _ready_status(loaded: LoadedVersion, device: Device) -> ModelStatus:
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
