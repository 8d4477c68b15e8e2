"""The OpenAPI entry of each hot route of the Open Inference Protocol. It runs nothing."""

from __future__ import annotations

from service.http.entries import Entry
from service.protocols.open_inference import documentation as documents

ENTRIES: dict[str, Entry] = {
    "infer": Entry(
        "The Open Inference Protocol, with the binary tensor data extension in both directions. `name` stands for a "
        "model's main graph, `name.graph` for any other. Models on pictures also take encoded ones, as BYTES [B].",
        documents.Inferred,
        documents.infer_request(),
        documents.INFER_RESPONSES,
    ),
    "generate": Entry(
        "Parameters stand in `parameters`, or beside `text_input`.",
        documents.GeneratedText,
        documents.text_request(),
        documents.HOT_ERRORS,
    ),
    "generate_stream": Entry(
        "One event for each piece of text; the last has `done` true.",
        None,
        documents.text_request(),
        documents.STREAM_RESPONSES,
    ),
}
