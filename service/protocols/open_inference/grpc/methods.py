"""The methods of GRPCInferenceService: each takes a message, asks the execution core, and fills in a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from service import __version__
from service.errors import Unsupported, UnsupportedTask
from service.protocols.open_inference.control import check_unload, read_load
from service.protocols.open_inference.execution import Execution, TensorMetadata
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.calls import Call, Calls
from service.protocols.open_inference.grpc.requests import parameter_values, read_request, write_answer
from service.protocols.open_inference.grpc.streams import FINAL, Streams, Tell
from service.protocols.open_inference.grpc.streams import NAME as STREAM_NAME
from service.protocols.open_inference.grpc.texts import stream_text
from service.protocols.open_inference.request import NO_SHARED_MEMORY
from service.protocols.open_inference.router import EXTENSIONS
from service.protocols.open_inference.router import NAME as SERVER_NAME
from service.schema import shown

NAME = "inference.GRPCInferenceService"

_REFUSED = {
    "SystemSharedMemoryStatus": NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": NO_SHARED_MEMORY,
    "TraceSetting": "What is traced is set when the service is started: --otel-endpoint.",
    "LogSettings": "What is logged is set when the service is started: --log-level, --access-log.",
}


class Methods:
    """The service's methods."""

    def __init__(self, execution: Execution, calls: Calls, is_ready: Callable[[], bool]) -> None:
        self._execution = execution
        self._calls = calls
        self._is_ready = is_ready
        self.streams = Streams(calls, self._stream_infer)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The handlers of all methods."""
        probes: dict[str, tuple[Any, Any]] = {
            "ServerLive": (pb.ServerLiveRequest, self._server_live),
            "ServerReady": (pb.ServerReadyRequest, self._server_ready),
        }
        methods: dict[str, tuple[Any, Any]] = {
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (pb.ModelInferRequest, self._infer),
            "ModelConfig": (pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
        }
        refused = {name: (getattr(pb, f"{name}Request"), _refuse(why)) for name, why in _REFUSED.items()}
        return {
            **{name: self._calls.unary(name, *method, is_probe=True) for name, method in probes.items()},
            **{name: self._calls.unary(name, *method) for name, method in (methods | refused).items()},
            STREAM_NAME: self.streams.handler(),
        }

    # --- health and metadata ---

    async def _server_live(self, _request: pb.ServerLiveRequest, _call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: pb.ServerReadyRequest, _call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def _model_ready(self, request: pb.ModelReadyRequest, _call: Call) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._execution.is_ready(request.name, request.version or None))

    async def _server_metadata(self, _request: pb.ServerMetadataRequest, _call: Call) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _call: Call) -> pb.ModelMetadataResponse:
        metadata = self._execution.metadata(request.name, request.version or None)
        return pb.ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
            inputs=map(_tensor_metadata, metadata.inputs),
            outputs=map(_tensor_metadata, metadata.outputs),
        )

    # --- inference ---

    async def _infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if self._writes_text(request):
            raise UnsupportedTask(f"{request.model_name!r} writes text piece by piece; use ModelStreamInfer.")
        return await self._compute(request, call)

    def _writes_text(self, request: pb.ModelInferRequest) -> bool:
        return self._execution.find(request.model_name, request.model_version or None).writes_text

    async def _compute(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        answer = await self._execution.infer(
            request.model_name,
            request.model_version or None,
            read_request(request),
            call.request_context,
            timeout_seconds=call.seconds_left,
        )
        return write_answer(answer)

    async def _stream_infer(self, request: pb.ModelInferRequest, call: Call, tell: Tell) -> None:
        if self._writes_text(request):
            await stream_text(self._execution, request, call, tell)
            return
        response = await self._compute(request, call)
        response.parameters[FINAL].bool_param = True
        tell(response)

    # --- extensions ---

    async def _model_config(self, request: pb.ModelConfigRequest, _call: Call) -> pb.ModelConfigResponse:
        config = self._execution.config(request.name, request.version or None)
        return pb.ModelConfigResponse(config=ParseDict(config, pb.ModelConfig()))

    async def _model_statistics(self, request: pb.ModelStatisticsRequest, _call: Call) -> pb.ModelStatisticsResponse:
        statistics = await self._execution.statistics(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[ParseDict(each, pb.ModelStatistics()) for each in statistics])

    async def _repository_index(self, request: pb.RepositoryIndexRequest, _call: Call) -> pb.RepositoryIndexResponse:
        _require_no_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        for entry in await self._execution.index(is_ready=request.ready):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    async def _load(self, request: pb.RepositoryModelLoadRequest, _call: Call) -> pb.RepositoryModelLoadResponse:
        _require_no_repository(request.repository_name)
        config = read_load(parameter_values(request.parameters, "the load"))
        await self._execution.load(request.model_name, config)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest, _call: Call) -> pb.RepositoryModelUnloadResponse:
        _require_no_repository(request.repository_name)
        check_unload(parameter_values(request.parameters, "the unload"))
        await self._execution.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _require_no_repository(name: str) -> None:
    if name:
        raise Unsupported(f"The repository is {shown(name)}; repositories have no names here, leave it out.")


def _tensor_metadata(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _refuse(why: str) -> Callable[[Any, Call], Awaitable[Message]]:
    async def refuse(_request: Any, _call: Call) -> Message:
        raise Unsupported(why)

    return refuse
