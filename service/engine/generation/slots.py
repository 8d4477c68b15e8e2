"""The slots of a decoder: who has which, what each holds, and the moves that keep those that decode together.

It carries out what `sequencing.py` decides, on the decoder's memory. It knows neither the queue nor tokens to come.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.generation import sequencing
from service.engine.generation.sampling import Floats
from service.engine.generation.sequences import Sequence
from service.engine.generation.sequencing import Content, Move


class States(Protocol):
    """The memory of the slots."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the state of a slot's first tokens."""

    def context(self, first: int, second: int, length: int) -> None:
        """RequestContext what two slots hold."""


class Runner(Protocol):
    """What computes: a `Decoder`."""

    language: Language
    num_slots: int
    max_chunk: int
    is_recurrent: bool
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int32]

    @property
    def states(self) -> States:
        """The memory of the slots."""

    @property
    def can_copy(self) -> bool:
        """Whether states can be copied."""

    @property
    def has_padding(self) -> bool:
        """Whether a step may compute rows of slots that do not decode."""

    def num_padded(self, num_rows: int) -> int:
        """How many rows a step computes."""

    def decode(self, num_rows: int) -> Floats:
        """One more token of the first slots."""

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, wanted: Items[int]) -> Floats:
        """A chunk of one slot."""


class Slots:
    """Which sequence has which slot, and what the slots hold."""

    def __init__(self, decoder: Runner) -> None:
        self._decoder = decoder
        self._context = decoder.language.context
        self._contents = [Content(np.zeros(self._context, np.int32)) for _ in range(decoder.num_slots)]
        self._holders: list[Sequence | None] = [None] * decoder.num_slots

    @property
    def num_free(self) -> int:
        """Slots without a sequence."""
        return self._holders.count(None)

    def take(self, sequence: Sequence) -> None:
        """Give a sequence a slot, with as much of its prompt as some slot holds already; one must be free."""
        placement = sequencing.place(
            sequence.prompt,
            self._contents,
            is_recurrent=self._decoder.is_recurrent,
            can_copy=self._decoder.can_copy,
            can_reuse=not sequence.is_scored,
        )
        for move in placement.moves:
            self._move(move)
        content = self._contents[placement.slot]
        content.length = sequence.num_in_state = sequence.num_reused = placement.num_reused
        content.tokens[: content.length] = sequence.prompt[: content.length]
        content.is_active = True
        sequence.slot = placement.slot
        self._holders[placement.slot] = sequence

    def release(self, sequence: Sequence, now: float) -> None:
        """Free a sequence's slot; what it holds stays for later prompts."""
        content = self._contents[sequence.slot]
        content.is_active = False
        content.last_used = now
        self._holders[sequence.slot] = None
        sequence.slot = -1

    def hold(self, sequence: Sequence, token: int) -> None:
        """Note that a sequence's state holds one more token."""
        content = self._contents[sequence.slot]
        content.tokens[content.length] = token
        content.length += 1
        sequence.num_in_state += 1

    def hold_prompt(self, sequence: Sequence, end: int) -> None:
        """Note that a sequence's state holds its prompt up to a place."""
        content = self._contents[sequence.slot]
        content.tokens[content.length : end] = sequence.prompt[content.length : end]
        content.length = sequence.num_in_state = end

    def distrust(self, sequence: Sequence) -> None:
        """Never reuse what a sequence's slot holds."""
        self._contents[sequence.slot].length = 0

    def distrust_all(self) -> None:
        """Never reuse what any slot holds."""
        for content in self._contents:
            content.length = 0

    def compact(self, decoding: list[Sequence]) -> None:
        """Bring the sequences that decode into the first slots, where states can be moved, and sort them by slot."""
        if self._decoder.can_copy:
            for mover, hole in sequencing.compaction(sequence.slot for sequence in decoding):
                self._exchange(mover, hole)
        decoding.sort(key=lambda sequence: sequence.slot)

    def fill(self, decoding: list[Sequence]) -> int:
        """Write the input of a step for sequences sorted by slot; return how many rows it has."""
        tokens, lengths = self._decoder.tokens, self._decoder.lengths
        num_rows = decoding[-1].slot + 1
        num_padded = self._decoder.num_padded(num_rows)
        if num_padded > len(decoding):
            self._pad(num_padded)
        for sequence in decoding:
            tokens[sequence.slot] = sequence.new_tokens[-1]
            lengths[sequence.slot] = sequence.num_in_state
        return num_rows

    def _pad(self, num_rows: int) -> None:
        for slot in range(num_rows):
            content = self._contents[slot]
            where, still_true = sequencing.padding_length(content.length, self._context, self._decoder.is_recurrent)
            self._decoder.tokens[slot], self._decoder.lengths[slot] = self._decoder.language.bos_token, where
            if not content.is_active:
                content.length = still_true

    def _move(self, move: Move) -> None:
        if move.is_exchange:
            self._exchange(move.source, move.target)
            return
        source, target = self._contents[move.source], self._contents[move.target]
        self._decoder.states.copy(move.source, move.target, move.length)
        target.tokens[: move.length] = source.tokens[: move.length]
        target.length, target.last_used = move.length, source.last_used

    def _exchange(self, first: int, second: int) -> None:
        contents, holders = self._contents, self._holders
        length = max(contents[first].length, contents[second].length)
        self._decoder.states.context(first, second, length)
        contents[first], contents[second] = contents[second], contents[first]
        holders[first], holders[second] = holders[second], holders[first]
        for slot in (first, second):
            if (holder := holders[slot]) is not None:
                holder.slot = slot
