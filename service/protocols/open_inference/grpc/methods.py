"""The methods of GRPCInferenceService: each reads a message, calls the execution and fills in a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from msgspec import to_builtins

from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter, Unsupported, UnsupportedTask
from service.protocols.open_inference.description import SERVER, TEXT_INPUT, TEXT_OUTPUT, Target
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.calls import Call, Calls
from service.protocols.open_inference.grpc.messages import parameter_values, read_request, write_result
from service.protocols.open_inference.grpc.streams import FINAL, Respond, Streams
from service.protocols.open_inference.grpc.streams import NAME as STREAM_NAME
from service.protocols.open_inference.request import NO_SHARED_MEMORY, InferRequest
from service.protocols.open_inference.schema import TensorMetadata
from service.protocols.open_inference.tensors import unpack_strings
from service.protocols.open_inference.text_routes import Prompted, begin_text
from service.schema import shown
from service.security import Access
from service.tasks.text_generation.detokenization import TextChunk
from service.tasks.text_generation.sequences import RunningSequence
from service.threads import INLINE_BYTES, off_loop

NAME = "inference.GRPCInferenceService"

_REFUSED = {
    "SystemSharedMemoryStatus": NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": NO_SHARED_MEMORY,
    "TraceSetting": "Tracing is configured when the service starts: --otel-endpoint.",
    "LogSettings": "Logging is configured when the service starts: --log-level, --access-log.",
}

ACCESS: dict[str, Access] = {
    **dict.fromkeys(("ServerLive", "ServerReady"), "public"),
    **dict.fromkeys(("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"), "infer"),
    **dict.fromkeys(("ModelInfer", STREAM_NAME, "RepositoryIndex"), "infer"),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload", *_REFUSED), "admin"),
}
"""What each method needs of a key."""

# Parameters that Triton's clients may add, and that do not concern how text is generated.
_IGNORED = (
    "timeout",
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "triton_enable_empty_final_response",
)


class Methods:
    """The service's methods."""

    def __init__(self, execution: Execution, calls: Calls, is_ready: Callable[[], bool]) -> None:
        self._execution = execution
        self._calls = calls
        self._is_ready = is_ready
        self.streams = Streams(calls, self._stream_infer)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The handlers of all methods."""
        methods: dict[str, tuple[Any, Any]] = {
            "ServerLive": (pb.ServerLiveRequest, self._server_live),
            "ServerReady": (pb.ServerReadyRequest, self._server_ready),
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
            **{
                name: self._calls.unary(name, *method, is_probe=ACCESS[name] == "public")
                for name, method in (methods | refused).items()
            },
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
        return pb.ServerMetadataResponse(name=SERVER.name, version=SERVER.version, extensions=SERVER.extensions)

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
        target = self._find(request)
        if target.writes_text:
            raise UnsupportedTask(f"{request.model_name!r} generates text piece by piece; use ModelStreamInfer.")
        return await self._compute(request, target, call)

    def _find(self, request: pb.ModelInferRequest) -> Target:
        return self._execution.find(request.model_name, request.model_version or None)

    async def _compute(self, request: pb.ModelInferRequest, target: Target, call: Call) -> pb.ModelInferResponse:
        inputs = self._execution.inputs_of(target)
        is_small = call.request_context.request_bytes <= INLINE_BYTES
        infer = read_request(request, inputs) if is_small else await off_loop(read_request, request, inputs)
        result = await self._execution.infer(
            request.model_name,
            request.model_version or None,
            infer,
            call.request_context,
            timeout_seconds=call.seconds_left,
        )
        return write_result(result)

    async def _stream_infer(self, request: pb.ModelInferRequest, call: Call, respond: Respond) -> None:
        target = self._find(request)
        if target.writes_text:
            await _stream_text(self._execution, target, request, call, respond)
            return
        response = await self._compute(request, target, call)
        response.parameters[FINAL].bool_param = True
        respond(response)

    # --- extensions ---

    async def _model_config(self, request: pb.ModelConfigRequest, _call: Call) -> pb.ModelConfigResponse:
        config = self._execution.config(request.name, request.version or None)
        return pb.ModelConfigResponse(config=ParseDict(to_builtins(config), pb.ModelConfig()))

    async def _model_statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        if request.name:
            statistics = await self._execution.statistics(request.name, request.version or None)
        else:
            statistics = await self._execution.all_statistics(call.request_context.caller)
        entries = [ParseDict(to_builtins(entry), pb.ModelStatistics()) for entry in statistics]
        return pb.ModelStatisticsResponse(model_stats=entries)

    async def _repository_index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        _require_no_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        for entry in await self._execution.index(call.request_context.caller, is_ready=request.ready):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    async def _load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        _require_no_repository(request.repository_name)
        parameters = parameter_values(request.parameters, "the load")
        await self._execution.load(request.model_name, parameters, call.request_context)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        _require_no_repository(request.repository_name)
        parameters = parameter_values(request.parameters, "the unload")
        await self._execution.unload(request.model_name, parameters, call.request_context)
        return pb.RepositoryModelUnloadResponse()


def _require_no_repository(name: str) -> None:
    if name:
        raise Unsupported(f"The repository is {shown(name)}; repositories have no names here; leave it out.")


def _tensor_metadata(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _refuse(why: str) -> Callable[[Any, Call], Awaitable[Message]]:
    async def refuse(_request: Any, _call: Call) -> Message:
        raise Unsupported(why)

    return refuse


# --- Text generators over ModelStreamInfer: one BYTES element in, a response for each chunk of text out ---


async def _stream_text(
    execution: Execution, target: Target, request: pb.ModelInferRequest, call: Call, respond: Respond
) -> None:
    """Continue the text of a request, with one response for each chunk; the last is marked as final.

    Raises: ServiceError.
    """
    infer = read_request(request, execution.inputs_of(target))
    parameters = {name: value for name, value in infer.parameters.items() if name not in _IGNORED}
    body = {TEXT_INPUT: _prompt(infer), "parameters": parameters}
    seconds = execution.timeout_seconds(infer.parameters.get("timeout"), call.seconds_left)
    prompted = Prompted(request.model_name, request.model_version or None, body, call.request_context, seconds)
    sequences, head = await begin_text(execution, prompted, streams=True)

    async def send(sequence: RunningSequence, chunk: TextChunk) -> None:
        response = pb.ModelInferResponse(**(head | {"id": request.id}))
        response.outputs.add(name=TEXT_OUTPUT, datatype="BYTES", shape=[1])
        response.raw_output_contents.append(pack_strings([chunk.text.encode("utf-8")]))
        response.parameters[FINAL].bool_param = sequence.finish_reason is not None
        respond(response)

    await sequences.run(send)


def _prompt(infer: InferRequest) -> str:
    names = [tensor.name for tensor in infer.inputs]
    if names != [TEXT_INPUT] or infer.inputs[0].datatype != "BYTES" or infer.inputs[0].num_elements != 1:
        raise InvalidParameter(
            f"The inputs are {', '.join(map(shown, names)) or 'none'}; a text generator takes {TEXT_INPUT!r}, "
            "BYTES of one element.",
            parameter=TEXT_INPUT,
        )
    (prompt,) = unpack_strings(TEXT_INPUT, infer.inputs[0].raw, 1)
    try:
        return str(prompt, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{TEXT_INPUT!r} is not UTF-8 text.", parameter=TEXT_INPUT) from error
