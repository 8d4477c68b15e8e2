"""The inference routes of the Open Inference Protocol, with what OpenAPI says of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from service.http.routing import Document, Route
from service.protocols.open_inference import documentation as documents
from service.protocols.open_inference.execution import Execution
from service.protocols.open_inference.router import TAG
from service.protocols.open_inference.routes import Infer, OpenInferenceRoute
from service.protocols.open_inference.text_routes import Generate, GenerateStream
from service.settings import Settings

_KINDS: dict[str, type[OpenInferenceRoute]] = {
    "infer": Infer,
    "generate": Generate,
    "generate_stream": GenerateStream,
}


def open_inference_routes(execution: Execution, settings: Settings, threads: ThreadPoolExecutor) -> list[Route]:
    """The routes on a model, each with and without a version in the path."""
    table = []
    for verb, kind in _KINDS.items():
        handler = kind(execution, settings, threads)
        for version in ("", "/versions/{version}"):
            table.append(Route("POST", f"/v2/models/{{model}}{version}/{verb}", handler, _document(verb, kind)))
    return table


def _document(verb: str, kind: type[OpenInferenceRoute]) -> Document:
    is_infer = kind is Infer
    return Document(
        summary=(kind.answer.__doc__ or "").strip(),
        description=_DESCRIPTIONS[verb],
        request=documents.infer_request() if is_infer else documents.text_request(),
        responses=_RESPONSES[verb],
        answers=_ANSWERS[verb],
        tag=TAG,
    )


_DESCRIPTIONS = {
    "infer": "The Open Inference Protocol, with the binary tensor data extension in both directions. `name` stands for "
    "a model's main graph, `name.graph` for any other. Models on images also take encoded ones, as BYTES [B].",
    "generate": "Parameters stand in `parameters`, or beside `text_input`.",
    "generate_stream": "One event for each piece of text; the last has `done` true.",
}
_RESPONSES = {
    "infer": documents.INFER_RESPONSES,
    "generate": documents.HOT_ERRORS,
    "generate_stream": documents.STREAM_RESPONSES,
}
_ANSWERS: dict[str, tuple[type, ...]] = {
    "infer": (documents.Inferred,),
    "generate": (documents.ContinuedText,),
    "generate_stream": (),
}
