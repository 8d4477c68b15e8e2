"""Text generators over ModelStreamInfer: one BYTES element in, a response for each piece of text out.

How tokens are drawn is told by the request's parameters, by the names that `generate` has.
"""

from __future__ import annotations

from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.grpc.calls import Call
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from service.protocols.open_inference.grpc.requests import read_request
from service.protocols.open_inference.grpc.streams import FINAL, Tell
from service.protocols.open_inference.request import InferRequest
from service.protocols.open_inference.tensors import unpack_strings
from service.protocols.open_inference.text_routes import Prompted, begin_text
from service.schema import shown
from service.tasks.text_generation.detokenization import Piece
from service.tasks.text_generation.sequences import Running

INPUT, OUTPUT = "text_input", "text_output"
# What Triton's clients may add on their own, and means nothing to a text.
_NOT_OURS = (
    "timeout",
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "triton_enable_empty_final_response",
)


async def stream_text(execution: Execution, request: ModelInferRequest, call: Call, tell: Tell) -> None:
    """Go on with the text of a request, and tell each piece; the last one says that it is.

    Raises: ServiceError.
    """
    read = read_request(request)
    parameters = {name: value for name, value in read.parameters.items() if name not in _NOT_OURS}
    body = {INPUT: _prompt(read), "parameters": parameters}
    seconds = execution.timeout_seconds(read.parameters.get("timeout"), call.seconds_left)
    prompted = Prompted(request.model_name, request.model_version or None, body, call.request_context, seconds)
    sequences, head = await begin_text(execution, prompted, streams=True)

    async def told(running: Running, piece: Piece) -> None:
        response = ModelInferResponse(model_name=head["model_name"], model_version=head["model_version"], id=request.id)
        response.outputs.add(name=OUTPUT, datatype="BYTES", shape=[1])
        response.raw_output_contents.append(pack_strings([piece.text.encode("utf-8")]))
        response.parameters[FINAL].bool_param = running.finish_reason is not None
        tell(response)

    await sequences.run(told)


def _prompt(read: InferRequest) -> str:
    names = [tensor.name for tensor in read.inputs]
    if names != [INPUT] or read.inputs[0].datatype != "BYTES" or read.inputs[0].num_elements != 1:
        raise InvalidParameter(
            f"The inputs are {', '.join(map(shown, names)) or 'none'}; a text generator takes {INPUT!r}, BYTES of one "
            "element.",
            parameter=INPUT,
        )
    (prompt,) = unpack_strings(INPUT, read.inputs[0].raw, 1)
    try:
        return str(prompt, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{INPUT!r} is no text in UTF-8.", parameter=INPUT) from error
