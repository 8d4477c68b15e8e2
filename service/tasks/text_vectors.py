"""Turns texts into vectors, in batches with those of other callers: what the routes of embeddings share.

A language model gives the mean of its last hidden states, an encoder of texts what it was trained to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.transport.client import ReadyModel
from service.errors import ContextExceeded, InvalidParameter, UnsupportedTask
from service.tasks.engine_work import EngineWork, run_concurrently
from service.tasks.task import TaskRequest
from service.tasks.tokenizers import Tokenizers, check_tokens, encoding_of, language_of
from service.threads import off_loop

GRAPHS = {"text-generation": "embedding", "text-embedding": "model"}
"""The graph of each task that gives vectors."""
VECTOR = "vector"
FILLING = -1
# Rows are filled up to the next of these, so that texts of like lengths share batches.
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

Texts = Sequence[str | list[int]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors [N,D] of texts, each of length 1, and the tokens that each was computed from."""

    vectors: NDArray[np.float32]
    num_tokens: list[int]


def require_vectors(model: ReadyModel) -> None:
    """Check that a model gives vectors of texts.

    Raises: UnsupportedTask.
    """
    graph = GRAPHS.get(model.manifest.task, "")
    if graph not in model.manifest.graphs:
        raise UnsupportedTask(f"{model.name!r} embeds no texts: it has no graph {graph or GRAPHS['text-embedding']!r}.")


async def embed_texts(
    tokenizers: Tokenizers, request: TaskRequest, work: EngineWork, texts: Texts, name: str = "text"
) -> Embedded:
    """Compute the vectors of texts, or of lists of token ids, which are taken as they are.

    Raises: InvalidParameter; ContextExceeded, as no text is cut; UnknownToken; and what the engine raises.
    """
    model = request.model
    require_vectors(model)
    tokens = await _tokens_of(tokenizers, model, texts, name)
    groups: dict[int, list[int]] = {}
    for index, each in enumerate(tokens):
        groups.setdefault(_row_length(len(each), _max_tokens(model)), []).append(index)
    request.context.reservation.grow(8 * sum(size * len(rows) for size, rows in groups.items()), "the texts' tokens")

    async def computed(size: int, indices: list[int]) -> NDArray[np.float32]:
        rows = np.full((len(indices), size), FILLING, np.int64)
        for row, index in zip(rows, indices, strict=True):
            row[: len(tokens[index])] = tokens[index]
        arrays = await work.infer(GRAPHS[model.manifest.task], [rows], (VECTOR,), num_rows=len(rows))
        return arrays[VECTOR]

    found = await work.run(run_concurrently([computed(size, indices) for size, indices in groups.items()]))
    vectors = np.empty((len(tokens), found[0].shape[1]), np.float32)
    for indices, computed_vectors in zip(groups.values(), found, strict=True):
        vectors[indices] = computed_vectors
    return Embedded(vectors, [len(each) for each in tokens])


def _row_length(num_tokens: int, max_tokens: int) -> int:
    return min(next((size for size in LENGTHS if size >= num_tokens), max_tokens), max_tokens)


def _max_tokens(model: ReadyModel) -> int:
    is_language = model.manifest.task == "text-generation"
    return language_of(model).context if is_language else encoding_of(model).max_tokens


async def _tokens_of(tokenizers: Tokenizers, model: ReadyModel, texts: Texts, name: str) -> list[list[int]]:
    """The tokens of each text, at least one and no more than fit.

    Raises: InvalidParameter, ContextExceeded, UnknownToken.
    """
    names = [name if len(texts) == 1 else f"{name}[{index}]" for index in range(len(texts))]
    for text, each in zip(texts, names, strict=True):
        if not text:
            raise InvalidParameter(f"{each} is empty; it must have at least one character or token.", parameter=name)
    found = await (_given(model, texts) if not isinstance(texts[0], str) else _encoded(tokenizers, model, texts, names))
    max_tokens = _max_tokens(model)
    for tokens, each in zip(found, names, strict=True):
        if not tokens:
            raise InvalidParameter(f"{each} has no word that {model.name!r} knows.", parameter=name)
        if len(tokens) > max_tokens:
            raise ContextExceeded(
                f"{each} has {len(tokens)} tokens; at most {max_tokens} fit, and no text is cut.", parameter=name
            )
    return found


async def _given(model: ReadyModel, texts: Sequence[object]) -> list[list[int]]:
    is_language = model.manifest.task == "text-generation"
    vocab_size = language_of(model).vocab_size if is_language else encoding_of(model).vocab_size
    found = [list(map(int, text)) for text in texts if isinstance(text, list)]
    for tokens in found:
        check_tokens(tokens, vocab_size, "input")
    return found


async def _encoded(
    tokenizers: Tokenizers, model: ReadyModel, texts: Sequence[object], names: Sequence[str]
) -> list[list[int]]:
    contents = [str(text) for text in texts]
    if model.manifest.task != "text-generation":
        encoder = await tokenizers.encoder_of(model)
        return await off_loop(encoder.encode_all, contents)
    tokenizer, language = await tokenizers.of(model), language_of(model)
    begin = [language.bos_token] if language.adds_bos else []
    return [
        [*begin, *await tokenizers.encode(tokenizer, content, language.context - len(begin), each)]
        for content, each in zip(contents, names, strict=True)
    ]
