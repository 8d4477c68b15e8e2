"""The OpenAPI entry of each route that FastAPI does not parse: its request, its answer, its errors. It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.api import picture_documentation as pictures
from service.api import text_documentation as texts
from service.api.documentation import PROBLEMS, Classified, Embedded, classifier_request
from service.api.openai import COMPLETIONS
from service.tasks import text_parameters
from service.tasks.stylization_parameters import STYLIZE

Responses = dict[int | str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the document says of one route."""

    description: str
    answer: type[BaseModel] | None  # None: no JSON; `responses` says what
    request: dict[str, Any]
    responses: Responses


def _classifier(verb: str, answer: type[BaseModel], *, explains: bool) -> Entry:
    return Entry(f"`POST /v1/models/{{model}}/{verb}`.", answer, classifier_request(explains=explains), PROBLEMS)


ENTRIES: dict[str, Entry] = {
    "classify": _classifier("classify", Classified, explains=True),
    "embed": _classifier("embed", Embedded, explains=False),
    "stylize": Entry(
        "Pictures of 32x32 pixels up to the service's limit. EXIF orientation is applied, alpha and the ICC profile "
        "are kept (a JPEG shows what is transparent on white), other metadata is dropped. Without `X-Request-Timeout`, "
        "large pictures have more time than other requests: the usual deadline for each 4 megapixels begun.",
        None,
        pictures.picture_request(STYLIZE),
        pictures.PICTURE_RESPONSES,
    ),
    "generate": Entry(
        "With `stream`, each event holds `index`, `text`, `tokens` and, if asked for, `logprobs`; the last of each "
        "answer has a `finish_reason`. An event `end` with `usage` and `timing` closes the stream, or an event `error` "
        "with a problem.",
        texts.Generated,
        texts.json_request(text_parameters.GENERATE, texts.GENERATE_EXAMPLE),
        texts.GENERATE_RESPONSES,
    ),
    "next-token": Entry(
        "Probabilities are the model's own, at temperature 1 and without any filter.",
        texts.NextTokens,
        texts.json_request(text_parameters.NEXT_TOKEN, texts.NEXT_TOKEN_EXAMPLE),
        texts.TEXT_PROBLEMS,
    ),
    "tokenize": Entry(
        "Names of special tokens in the text are text. Tokens that share a character share its place.",
        texts.Tokenized,
        texts.json_request(text_parameters.TEXT, texts.TEXT_EXAMPLE),
        texts.TEXT_PROBLEMS,
    ),
    "detokenize": Entry(
        "Special tokens are told by their names.",
        texts.Detokenized,
        texts.json_request(text_parameters.TOKENS, texts.TOKENS_EXAMPLE),
        texts.TEXT_PROBLEMS,
    ),
    "score": Entry(
        "A text longer than the context is read in windows, half a context apart, of which there may be "
        "32: each token is scored once, with at least half a context before it.",
        texts.Scored,
        texts.json_request(text_parameters.TEXT, texts.TEXT_EXAMPLE),
        texts.TEXT_PROBLEMS,
    ),
    "attention": Entry(
        "For Transformers, and for texts as short as the card's `language.attention_tokens`.",
        texts.Attended,
        texts.json_request(text_parameters.TEXT, texts.TEXT_EXAMPLE),
        texts.TEXT_PROBLEMS,
    ),
    COMPLETIONS: Entry(
        "OpenAI's legacy completions, for their clients. Errors come in OpenAI's form too.",
        texts.Completion,
        texts.json_request(text_parameters.OPENAI, texts.COMPLETION_EXAMPLE),
        texts.COMPLETION_RESPONSES,
    ),
}
