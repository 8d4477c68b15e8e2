"""Runs requests of the Open Inference Protocol in the engine and describes its models, for HTTP and gRPC alike.

It checks tensors against the model's inputs; it does not know how requests are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.manifest import Graph
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import Arrays, InferTarget
from service.errors import InvalidParameter, ModelFailed, ModelNotReady, UnknownModel, Unsupported, UnsupportedTask
from service.http.request_context import RequestContext
from service.protocols.open_inference import description
from service.protocols.open_inference.description import Target, find, require_text, split_name
from service.protocols.open_inference.encoded_images import EncodedImages
from service.protocols.open_inference.inputs import ModelInputs, Rows, check_inputs
from service.protocols.open_inference.reply import output_tensors, requested_outputs
from service.protocols.open_inference.request import InferRequest, RequestedOutput, Scalar
from service.protocols.open_inference.schema import (
    IndexEntry,
    LoadParameters,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    UnloadParameters,
)
from service.protocols.open_inference.tensors import Tensor
from service.quotas import Callers
from service.schema import read, shown
from service.security import Key
from service.settings import Settings
from service.tasks.engine_work import EngineWork
from service.tasks.grammars import GrammarChecks
from service.tasks.image_decoding import ImageDecoder
from service.tasks.tokenizers import Tokenizers
from service.telemetry.audit import recorded
from service.threads import INLINE_BYTES, off_loop

_INDEX_STATES = {"loading": "LOADING", "ready": "READY", "idle": "READY", "unloading": "UNLOADING"}


@dataclass(frozen=True, slots=True)
class InferResult:
    """The outputs of a request in the requested order, classification strings in place of scores where requested."""

    model_name: str
    model_version: str
    id: str | None
    outputs: tuple[tuple[RequestedOutput, Tensor], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked against its model: what the engine computes, and what becomes of the answer."""

    target: InferTarget
    rows: Rows
    timeout_seconds: float
    answer: AnswerMaker


@dataclass(frozen=True, slots=True)
class AnswerMaker:
    """Makes the answers to requests that ask for the same of the same graph."""

    model_name: str
    model_version: str
    id: str | None
    graph: Graph
    requested: tuple[RequestedOutput, ...]
    labels: Sequence[str] | None

    @property
    def is_costly(self) -> bool:
        """Whether elements become Python objects on the way."""
        return any(each.num_classes for each in self.requested) or any(
            spec.datatype == "BYTES" for spec in self.graph.outputs
        )

    def result(self, arrays: Arrays) -> InferResult:
        """The outputs.

        Raises: InvalidParameter where classes are requested of a tensor without scores.
        """
        outputs = output_tensors(self.graph, self.requested, arrays, self.labels)
        return InferResult(self.model_name, self.model_version, self.id, outputs)


class Execution:
    """Runs requests in the engine and describes its models. HTTP and gRPC share one, with `budget` and `callers`."""

    def __init__(
        self,
        client: EngineClient,
        settings: Settings,
        decoder: ImageDecoder,
        tokenizers: Tokenizers,
    ) -> None:
        self.client = client
        self.settings = settings
        self.budget = client.budget
        self.callers = Callers(settings.caller_limits, settings.workers, settings.proxy_networks)
        self.tokenizers = tokenizers
        self.decoder = decoder
        self.grammars = GrammarChecks(decoder.decoders)
        self._images = EncodedImages(settings, decoder)

    # --- inference ---

    def find(self, model: str, version: str | None, *, is_request: bool = False) -> Target:
        """The version and the graph that `name` or `name.graph` stands for; no version means the default.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        return find(self.client, model, version, is_request=is_request)

    def inputs_of(self, target: Target) -> ModelInputs:
        """What a request for a model may hold."""
        return ModelInputs(target, self.settings.max_images)

    async def infer(
        self,
        model: str,
        version: str | None,
        request: InferRequest,
        context: RequestContext,
        *,
        timeout_seconds: float | None = None,
    ) -> InferResult:
        """Compute the requested outputs.

        The parameter `timeout` (microseconds) takes precedence over `timeout_seconds`.

        Raises: ServiceError.
        """
        target = self.find(model, version, is_request=True)
        context.model = target.model.name
        context.precision = self.client.precision_of(target.model.name, target.model.version)
        graph = _graph_of(target)
        seconds = self.timeout_seconds(request.parameters.get("timeout"), timeout_seconds)
        inputs: Sequence[Tensor] = request.inputs
        if any(tensor.datatype == "BYTES" for tensor in inputs):
            work = EngineWork(self.client, target.model, context, seconds)
            images = self._images.decode_all(target.model.manifest, graph, inputs, context)
            inputs, seconds = await work.run(images), work.seconds_left()
        prepared = self.prepare(target, request, inputs, seconds)
        rows = prepared.rows
        call = self.client.compute(prepared.target, rows.payload, rows.num_rows, seconds, context.account)
        with context.leaving(lambda: self.client.cancel(call)):
            arrays, context.timing = await call
        if prepared.answer.is_costly and sum(array.nbytes for array in arrays.values()) > INLINE_BYTES:
            return await off_loop(prepared.answer.result, arrays)
        return prepared.answer.result(arrays)

    def prepare(
        self, target: Target, request: InferRequest, inputs: Sequence[Tensor], timeout_seconds: float | None = None
    ) -> Prepared:
        """Check a request, whose images are decoded, against its model; `timeout_seconds` as in `infer`.

        Raises: InvalidParameter; UnsupportedTask.
        """
        graph, model = _graph_of(target), target.model
        requested = requested_outputs(graph, request.outputs)
        rows = check_inputs(graph, inputs)
        names = tuple(output.name for output in requested)
        priority = _priority(request.parameters.get("priority"))
        return Prepared(
            InferTarget(model.name, model.version, target.graph_name, names, rows.row_shapes, priority),
            rows,
            self.timeout_seconds(request.parameters.get("timeout"), timeout_seconds),
            AnswerMaker(target.name, model.version, request.id, graph, requested, model.manifest.labels),
        )

    def timeout_seconds(self, timeout: Scalar | None, otherwise: float | None) -> float:
        """The time for a request: the parameter `timeout` (microseconds), else `otherwise`, else the default.

        Raises: InvalidParameter.
        """
        if timeout is not None and (type(timeout) is not int or timeout < 0):
            raise InvalidParameter(f"timeout is {shown(timeout)}; it must be whole microseconds.", parameter="timeout")
        seconds = (timeout or 0) / 1e6 or otherwise or self.settings.request_timeout_seconds
        return float(min(seconds, self.settings.max_request_timeout_seconds))

    # --- descriptions of models ---

    @property
    def is_server_ready(self) -> bool:
        """Whether every model that should be served is ready."""
        return self.client.is_ready

    def is_ready(self, model: str, version: str | None) -> bool:
        """Whether the model, in this version if one is named, is ready; an unknown one is not."""
        try:
            return self.client.serves(self.find(model, version).model)
        except (UnknownModel, ModelNotReady, ModelFailed):
            return False

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        """Names, versions, platform and tensors of a model.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        return description.metadata(self.find(model, version), self.client.statuses, is_one_version=bool(version))

    def config(self, model: str, version: str | None) -> ModelConfig:
        """The model's configuration in Triton's form.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        return description.config(self.find(model, version), self.settings)

    async def all_statistics(self, caller: Key) -> list[ModelStatistics]:
        """What the ready versions of all models that a caller may use have done, in Triton's form."""
        statuses = await self.client.describe()
        return description.statistics_of_all(status for status in statuses if caller.may_use(status.name))

    async def statistics(self, model: str, version: str | None = None) -> list[ModelStatistics]:
        """What the ready versions of a model have done, in Triton's form.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        target = self.find(model, version)
        return description.statistics_of(await self.client.describe(), target, is_one_version=bool(version))

    # --- the repository ---

    async def index(self, caller: Key, *, is_ready: bool = False) -> list[IndexEntry]:
        """Every version in the repository of the models that a caller may use, or only those that are ready.

        Raises: EngineUnavailable.
        """
        await self.client.refresh()
        return [
            IndexEntry(
                name=status.name,
                version=status.version,
                state=_INDEX_STATES.get(status.state, "UNAVAILABLE"),
                reason=status.reason,
                is_default=status.is_default,
            )
            for status in self.client.statuses
            if caller.may_use(status.name) and (status.is_usable or not is_ready)
        ]

    async def load(self, model: str, parameters: Mapping[str, Any], context: RequestContext) -> None:
        """Load a model, or load it again; the parameter `config` is JSON in place of its `config.toml`.

        Raises: ServiceError; Unsupported where the model's files are in the request.
        """
        with recorded("load", caller=context.caller.name, address=context.address, model=model[:200]):
            if files := sorted(name for name in parameters if name.startswith("file:")):
                raise Unsupported(f"{shown(files[0])} is a file; models are loaded only from the repository's folders.")
            await self.client.load(self._whole(model), read(LoadParameters, parameters).config)

    async def unload(self, model: str, parameters: Mapping[str, Any], context: RequestContext) -> None:
        """Unload a model; return when its memory is free.

        Raises: ServiceError.
        """
        with recorded("unload", caller=context.caller.name, address=context.address, model=model[:200]):
            read(UnloadParameters, parameters)
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


def _graph_of(target: Target) -> Graph:
    if target.graph is not None:
        return target.graph
    require_text(target)
    raise UnsupportedTask(
        f"{target.model.name!r} generates text token by token; use generate or generate_stream instead of infer."
    )
