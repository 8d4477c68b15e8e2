"""What the Open Inference Protocol asks of models, whatever carried the request: inference and what is said of models.

It knows neither HTTP nor gRPC, nor how requests are written.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from service.engine.transport.client import EngineClient
from service.errors import InvalidParameter, ModelNotReady, UnknownModel, UnsupportedTask
from service.http.request_context import RequestContext
from service.protocols.open_inference import description, statistics
from service.protocols.open_inference.description import ModelMetadata, TensorMetadata, require_text
from service.protocols.open_inference.inputs import check_inputs
from service.protocols.open_inference.naming import Target, find, split_name
from service.protocols.open_inference.outputs import answer_outputs, wanted_outputs
from service.protocols.open_inference.pictures import PictureRows
from service.protocols.open_inference.request import InferRequest, Scalar, WantedOutput
from service.protocols.open_inference.tensors import Tensor
from service.schema import shown
from service.settings import Settings
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics

__all__ = ["Answer", "Execution", "IndexEntry", "ModelMetadata", "TensorMetadata"]

_INDEX_STATES = {"loading": "LOADING", "ready": "READY", "unloading": "UNLOADING"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of a request in the order asked for, classification strings in the place of scores where wanted."""

    model_name: str
    model_version: str
    id: str | None
    outputs: tuple[tuple[WantedOutput, Tensor], ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the repository; `state` is READY, LOADING, UNLOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


class Execution:
    """Runs requests in the engine and describes its models. The two wire forms share one."""

    def __init__(
        self,
        client: EngineClient,
        settings: Settings,
        metrics: Metrics,
        decoders: ThreadPoolExecutor,
        tokenizers: Tokenizers,
    ) -> None:
        self.client = client
        self.settings = settings
        self.tokenizers = tokenizers
        self._pictures = PictureRows(settings, metrics, decoders)

    # --- inference ---

    def find(self, model: str, version: str | None) -> Target:
        """The version and the graph that `name` or `name.graph` stands for; no version means the newest ready one.

        Raises: UnknownModel, ModelNotReady.
        """
        return find(self.client, model, version)

    async def infer(
        self,
        model: str,
        version: str | None,
        request: InferRequest,
        context: RequestContext,
        *,
        timeout_seconds: float | None = None,
    ) -> Answer:
        """Compute the outputs that are asked for.

        The parameter `timeout` (microseconds) comes before `timeout_seconds`, which the wire form may have of its own.

        Raises: ServiceError.
        """
        target = self.find(model, version)
        context.model = target.model.name
        graph = target.graph
        if graph is None:
            _refuse(target)
        wanted = wanted_outputs(graph, request.outputs)
        inputs = await self._pictures.fill_in(target.model.manifest, graph, request.inputs)
        rows = check_inputs(graph, inputs)
        call = self.client.infer(
            target.model,
            target.graph_name,
            tuple(output.name for output in wanted),
            rows.payload,
            rows.num_rows,
            self.timeout_seconds(request.parameters.get("timeout"), timeout_seconds),
            row_shapes=rows.row_shapes,
            priority=_priority(request.parameters.get("priority")),
        )
        context.on_disconnect = lambda: self.client.cancel(call)
        if context.is_disconnected:
            self.client.cancel(call)
        arrays, context.timing = await call
        outputs = answer_outputs(graph, wanted, arrays, target.model.manifest.labels)
        return Answer(target.name, target.model.version, request.id, outputs)

    def timeout_seconds(self, timeout: Scalar | None, otherwise: float | None) -> float:
        """The time for a request: the parameter `timeout` (microseconds), else `otherwise`, else the default.

        Raises: InvalidParameter.
        """
        if timeout is not None and (type(timeout) is not int or timeout < 0):
            raise InvalidParameter(f"timeout is {shown(timeout)}; it must be whole microseconds.", parameter="timeout")
        seconds = (timeout or 0) / 1e6 or otherwise or self.settings.request_timeout_seconds
        return float(min(seconds, self.settings.max_request_timeout_seconds))

    # --- what is said of models ---

    @property
    def is_server_ready(self) -> bool:
        """Whether every wanted model can be served now."""
        return self.client.is_ready

    def is_ready(self, model: str, version: str | None) -> bool:
        """Whether the model, in this version if one is named, can be served now; an unknown one cannot."""
        try:
            self.find(model, version)
        except (UnknownModel, ModelNotReady):
            return False
        return self.client.is_connected

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """Names, versions, platform and tensors of a model.

        Raises: UnknownModel, ModelNotReady.
        """
        return description.metadata(self.find(model, version), self.client.statuses, is_one_version=bool(version))

    def config(self, model: str, version: str | None) -> dict[str, Any]:
        """The model's configuration in Triton's shape.

        Raises: UnknownModel, ModelNotReady.
        """
        return description.config(self.find(model, version), self.settings)

    async def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """What ready versions have done, in Triton's shape; of all models where none is named.

        Raises: UnknownModel, ModelNotReady.
        """
        if not model:
            return statistics.of_all(await self.client.describe())
        target = self.find(model, version or None)
        return statistics.of_one(await self.client.describe(), target, is_one_version=bool(version))

    # --- the repository ---

    async def index(self, *, is_ready: bool = False) -> list[IndexEntry]:
        """Every version in the repository, or those that are ready.

        Raises: EngineUnavailable.
        """
        await self.client.refresh()
        entries = [
            IndexEntry(status.name, status.version, _INDEX_STATES.get(status.state, "UNAVAILABLE"), status.reason)
            for status in self.client.statuses
        ]
        return [entry for entry in entries if entry.state == "READY" or not is_ready]

    async def load(self, model: str, config: str = "") -> None:
        """Load a model, or load it again; `config` is JSON that stands for its `config.toml`.

        Raises: ServiceError.
        """
        await self.client.load(self._whole(model), config)

    async def unload(self, model: str) -> None:
        """Serve a model no longer; returns when its memory is free.

        Raises: ServiceError.
        """
        await self.client.unload(self._whole(model))

    def _whole(self, name: str) -> str:
        """A model's name, which must not be that of one of its graphs: they are loaded together."""
        model, graph = split_name({status.name for status in self.client.statuses}, name)
        if graph:
            raise InvalidParameter(f"{name!r} is a part of {model!r}; its graphs are loaded and unloaded together.")
        return name


def _priority(priority: Scalar | None) -> int:
    if priority is not None and (type(priority) is not int or not 0 <= priority < 2**63):
        raise InvalidParameter(f"priority is {shown(priority)}; it must be a whole number from 0 on.")
    return priority or 0


def _refuse(target: Target) -> NoReturn:
    """Say what to do where a name stands for no graph."""
    require_text(target)
    raise UnsupportedTask(
        f"{target.model.name!r} writes text token by token: use generate or generate_stream in the place of infer."
    )
