"""The OpenAPI entry of each route that FastAPI does not parse: its request, its answer, its errors. It runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.http import image_documentation as pictures
from service.http.documentation import PROBLEMS, Classified, Embedded, classifier_request
from service.http.multi_image import ZIP_TYPE
from service.protocols.openai.routes import COMPLETIONS
from service.tasks.image_generation import documentation as generators
from service.tasks.image_generation import encoder_documentation as encoders
from service.tasks.image_generation import encoding_parameters
from service.tasks.image_generation import parameters as generation_parameters
from service.tasks.style_transfer.parameters import STYLIZE
from service.tasks.text_generation import documentation as texts
from service.tasks.text_generation import parameters as text_parameters

Responses = dict[int | str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the document says of one route."""

    description: str
    answer: Any  # a pydantic model or several; None: no JSON, `responses` says what
    request: dict[str, Any]
    responses: Responses


ENTRIES: dict[str, Entry] = {
    "classify": Entry("`POST /v1/models/{model}/classify`.", Classified, classifier_request(), PROBLEMS),
    "embed": Entry(
        "Classifiers: the unit-length feature vector. Image generators with an encoder: the mean of the latent.",
        Embedded,
        pictures.picture_request(encoding_parameters.ENCODE, takes_raw=True),
        PROBLEMS,
    ),
    "encode": Entry(
        "For image generators with an encoder; pictures are taken and prepared as by `classify`.",
        encoders.Encoded,
        pictures.picture_request(encoding_parameters.ENCODE, takes_raw=True),
        PROBLEMS,
    ),
    "reconstruct": Entry(
        "For image generators with an encoder; pictures are taken and prepared as by `classify`. Errors are in nats a "
        "pixel, averaged over samples of the latent: black costs nothing, the hottest colour what guessing costs.",
        encoders.Reconstructed,
        pictures.picture_request(encoding_parameters.RECONSTRUCT, takes_raw=True),
        generators.drawn_responses("image/png"),
    ),
    "stylize": Entry(
        "Pictures of 32x32 pixels up to the service's limit. EXIF orientation is applied, alpha and the ICC profile "
        "are kept (a JPEG shows what is transparent on white), other metadata is dropped. Without `X-Request-Timeout`, "
        "large pictures have more time than other requests: the usual deadline for each 4 megapixels begun.",
        None,
        pictures.picture_request(STYLIZE),
        pictures.PICTURE_RESPONSES,
    ),
    "generate": Entry(
        "Text generators: with `stream`, each event holds `index`, `text`, `tokens` and, if asked for, `logprobs`; the "
        "last of each answer has a `finish_reason`. An event `end` with `usage` and `timing` closes the stream, or an "
        "event `error` with a problem. Image generators: each picture tells its own seed, which draws it again alone, "
        "with the same label, temperature and truncation. With an empty body, the query may hold their parameters.",
        generators.GENERATED,
        generators.generate_request(),
        generators.GENERATE_BOTH_RESPONSES,
    ),
    "decode": Entry(
        "Latents are those that `encode` finds, or that `generate` tells with `latents`.",
        generators.DecodedImages,
        texts.json_request(generation_parameters.DECODE, generators.DECODE_EXAMPLE),
        generators.drawn_responses("image/png", ZIP_TYPE),
    ),
    "interpolate": Entry(
        "The ends of a walk between seeds are the pictures that `generate` draws from them.",
        generators.DecodedImages,
        texts.json_request(generation_parameters.INTERPOLATE, generators.INTERPOLATE_EXAMPLE),
        generators.drawn_responses("image/png", "image/webp", "image/gif"),
    ),
    "arithmetic": Entry(
        "For models with an encoder. Each of `a`, `b` and `c` may be a latent, a picture, or pictures to be averaged.",
        generators.Reckoned,
        texts.json_request(generation_parameters.ARITHMETIC, generators.ARITHMETIC_EXAMPLE),
        generators.drawn_responses("image/png"),
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
GENERATE_BY_ADDRESS = Entry(
    "For image generators, in a browser or an `<img>`; a labelled grid where neither `format` nor `Accept` says more.",
    generators.Drawn,
    generators.query_request(generation_parameters.GENERATE),
    generators.ADDRESS_RESPONSES,
)
