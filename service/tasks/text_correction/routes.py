"""`POST /v1/models/{model}/correct`: texts without their slips of spelling."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from models.alphabet import Alphabet
from service.engine.transport.messages import Arrays
from service.errors import InvalidParameter
from service.http.answers import encode_json
from service.schema import Answer, Parameters
from service.tasks.engine_work import EngineWork, run_concurrently
from service.tasks.task import JsonRoute, TaskRequest
from service.tasks.text_correction import process
from service.tasks.text_correction.process import Piece
from service.tasks.text_embedding.routes import TEXTS
from service.tasks.tokenizers import encoding_of
from service.threads import off_loop

MAX_CHARACTERS = 2**16
"""Of all texts of a request."""
MAX_ALIGNED_CHARACTERS = 2048
"""Of all texts of a request with alignments: each is a number for each pair of characters of a sentence."""
PIECES_AT_ONCE = 32


class CorrectParameters(Parameters):
    """The parameters of `correct`."""

    text: Annotated[list[str], TEXTS]
    alignment: Annotated[bool, Meta(description="Add where the network looked as it wrote each character.")] = False


class Alignment(Answer):
    """Of one sentence from character `start` on: `weights[i][j]` is how much `text[i]` was read from `source[j]`."""

    start: int
    source: str
    text: str
    weights: list[list[float]]


class Correction(Answer):
    """A corrected text."""

    text: str
    is_changed: bool
    alignment: list[Alignment] | UnsetType = UNSET


class CorrectAnswer(Answer):
    """The answer of `correct`."""

    model: str
    version: str
    results: list[Correction]


class Correct(JsonRoute):
    """`POST /v1/models/{model}/correct`."""

    task = "text-correction"
    verb = "correct"
    parameters = CorrectParameters
    answers = (CorrectAnswer,)
    example = {"text": "It was teh best of tmies.", "alignment": False}
    description = (
        "Texts go through the network in sentences, which share batches with those of other callers; line ends and "
        f"other white space between sentences stay. A request may have {MAX_CHARACTERS:,} characters, with `alignment` "
        f"{MAX_ALIGNED_CHARACTERS:,}. Without `X-Request-Timeout`, the default timeout applies to each "
        f"{PIECES_AT_ONCE} sentences or part of them."
    )

    async def answer(self, request: TaskRequest) -> msgspec.Raw:
        """Correct the spelling of a text or several; with `alignment`, show what each character was read from."""
        parameters = await self.read(request, CorrectParameters)
        _check_size(parameters)
        alphabet = await self.dependencies.tokenizers.alphabet_of(request.model)
        most = encoding_of(request.model).max_tokens
        pieces = [piece for index, text in enumerate(parameters.text) for piece in process.pieces_of(index, text, most)]
        work = self.work(request, max(1, -(-len(pieces) // PIECES_AT_ONCE)))
        request.context.reservation.grow(8 * most * len(pieces), "the texts' characters")
        found = await self._computed(work, alphabet, pieces, most, with_alignment=parameters.alignment)
        name, version = request.model.name, request.model.version
        return await off_loop(lambda: _rendered(name, version, parameters, alphabet, found))

    async def _computed(
        self, work: EngineWork, alphabet: Alphabet, pieces: list[Piece], most: int, *, with_alignment: bool
    ) -> list[tuple[Piece, Arrays]]:
        """The outputs for each piece, as rows, in the order of the pieces."""
        graph = "align" if with_alignment else "correct"
        outputs = ("corrected", "places", *(("alignment",) if with_alignment else ()))
        groups: dict[int, list[int]] = {}
        for index, piece in enumerate(pieces):
            groups.setdefault(process.row_length(piece.text, most), []).append(index)

        async def computed(length: int, indices: list[int]) -> Arrays:
            rows = alphabet.rows([pieces[index].text for index in indices], length)
            return await work.infer(graph, [rows], outputs, num_rows=len(rows))

        answers = await work.run(run_concurrently([computed(length, some) for length, some in groups.items()]))
        by_index = {
            index: {name: array[row] for name, array in arrays.items()}
            for indices, arrays in zip(groups.values(), answers, strict=True)
            for row, index in enumerate(indices)
        }
        return [(piece, by_index[index]) for index, piece in enumerate(pieces)]


def _check_size(parameters: CorrectParameters) -> None:
    """Check that the texts are no longer than may be at once.

    Raises: InvalidParameter.
    """
    size, most = sum(map(len, parameters.text)), MAX_ALIGNED_CHARACTERS if parameters.alignment else MAX_CHARACTERS
    if size > most:
        told = " with alignment" if parameters.alignment else ""
        raise InvalidParameter(f"text has {size} characters; it must be at most {most}{told}.", parameter="text")


def _rendered(
    name: str, version: str, parameters: CorrectParameters, alphabet: Alphabet, found: list[tuple[Piece, Arrays]]
) -> msgspec.Raw:
    corrected: list[list[tuple[Piece, str]]] = [[] for _ in parameters.text]
    aligned: list[list[Alignment]] = [[] for _ in parameters.text]
    for piece, arrays in found:
        right = process.written_text(alphabet, arrays["corrected"].tolist(), arrays["places"].tolist(), piece.text)
        corrected[piece.text_index].append((piece, right))
        if parameters.alignment:
            aligned[piece.text_index].append(_aligned(piece, right, arrays["alignment"]))
    results = []
    for text, parts, alignments in zip(parameters.text, corrected, aligned, strict=True):
        whole = process.joined(text, parts)
        shown: Any = alignments if parameters.alignment else UNSET
        results.append(Correction(text=whole, is_changed=whole != text, alignment=shown))
    return msgspec.Raw(encode_json(CorrectAnswer(model=name, version=version, results=results)))


def _aligned(piece: Piece, right: str, alignment: np.ndarray[Any, np.dtype[np.float32]]) -> Alignment:
    weights = process.weights_of(alignment, len(right), len(piece.text))
    return Alignment(start=piece.start, source=piece.text, text=right, weights=weights)
