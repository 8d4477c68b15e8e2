"""The texts that are being continued, the slots that hold their states, and the events of a step.

It knows neither the queue nor how tokens are chosen.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.generation import sequencing
from service.engine.generation.constraints import Constraint
from service.engine.generation.sampling import Floats, Sampler
from service.engine.generation.sequencing import Content, Move
from service.engine.transport.messages import ANYONE, Caller, Finished, PromptScores, Sampling, Token
from service.errors import ServiceError


class Sequence:
    """A prompt and its continuation: its progress and its slot."""

    def __init__(
        self,
        prompt: NDArray[np.int32],
        sampling: Sampling,
        language: Language,
        arrival: float,
        deadline: float,
        owner: object = None,
        caller: Caller = ANYONE,
        constraint: Constraint | None = None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.arrival = arrival
        self.deadline = deadline
        self.owner = owner
        self.caller = caller
        self.priority = self.request = 0
        self.slot = -1
        self.is_over = False
        self.end_tokens = sampling.end_tokens(language.end_tokens)
        self.sampler = Sampler(sampling, prompt, language.vocab_size, self.end_tokens, constraint)
        self.new_tokens: list[int] = []
        self.max_new = sequencing.max_new_tokens(len(prompt), sampling.max_tokens, language.context)
        self.num_in_state = 0
        self.num_reused = 0
        self.is_reuse_told = False
        self.num_steps = 0
        self.admitted_at = 0.0
        self.prefilled_at = 0.0
        self.last_token_at = 0.0
        self.scores: list[PromptScores] = []

    @property
    def num_prompt(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.prompt)

    @property
    def is_prefilled(self) -> bool:
        """Whether the state holds the whole prompt."""
        return self.num_in_state >= self.num_prompt

    @property
    def is_complete(self) -> bool:
        """Whether the grammar that the text is held to lets nothing follow."""
        return self.sampler.constraint is not None and self.sampler.constraint.is_over

    @property
    def is_scored(self) -> bool:
        """Whether the log probabilities of the prompt are requested."""
        return self.sampling.prompt_logprobs >= 0

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The prompt and the new tokens."""
        return np.concatenate((self.prompt, np.array(self.new_tokens, np.int32)))


@dataclass(slots=True)
class StepEvents:
    """The results of one step: scores of prompts, then tokens, then ends."""

    scored: list[tuple[Sequence, PromptScores]] = field(default_factory=list)
    sampled: list[tuple[Sequence, Token]] = field(default_factory=list)
    ended: list[tuple[Sequence, Finished | ServiceError]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.scored or self.sampled or self.ended)


def joined(parts: list[PromptScores]) -> PromptScores:
    """The scores of consecutive chunks, joined."""
    if len(parts) == 1:
        return parts[0]
    return PromptScores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class States(Protocol):
    """The memory of the slots."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the state of a slot's first tokens."""

    def swap(self, first: int, second: int, length: int) -> None:
        """Swap what two slots hold."""

    def release(self) -> None:
        """Give the memory of all slots back."""


class SlotDecoder(Protocol):
    """A `Decoder`, as far as sequences use it."""

    language: Language
    num_slots: int
    max_chunk: int
    is_recurrent: bool
    is_rounded: bool
    can_join: bool
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
        """Whether a step may compute rows of slots that are not decoding."""

    def num_padded(self, num_rows: int) -> int:
        """How many rows a step computes."""

    def decode(self, num_rows: int) -> Floats:
        """One more token of the first slots."""

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, positions: abc.Sequence[int]) -> Floats:
        """A chunk of one slot."""

    def prefill_together(
        self, slot: int, prompts: abc.Sequence[NDArray[Any]], positions: abc.Sequence[abc.Sequence[int]]
    ) -> Floats:
        """Whole prompts in slots from one on."""

    def use(self, num_threads: int) -> None:
        """Compute with so many threads."""


class Slots:
    """Which sequence has which slot, and which tokens each slot holds; carries out what `sequencing.py` decides."""

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder
        self._context = decoder.language.context
        self._contents = [Content(np.zeros(self._context, np.int32)) for _ in range(decoder.num_slots)]
        self._holders: list[Sequence | None] = [None] * decoder.num_slots

    @property
    def num_free(self) -> int:
        """The number of slots without a sequence."""
        return self._holders.count(None)

    def take(self, sequence: Sequence) -> None:
        """Give a sequence a slot with as much of its prompt as any slot already holds; one must be free."""
        placement = sequencing.place(
            sequence.prompt,
            self._contents,
            is_recurrent=self._decoder.is_recurrent,
            can_copy=self._decoder.can_copy,
            can_reuse=not sequence.is_scored,
            domain=sequence.caller.domain,
        )
        for move in placement.moves:
            self._move(move)
        content = self._contents[placement.slot]
        content.length = sequence.num_in_state = sequence.num_reused = placement.num_reused
        content.tokens[: content.length] = sequence.prompt[: content.length]
        content.is_active, content.domain = True, sequence.caller.domain
        # Of a decoder that rounds, what steps write stays with its text: a prompt could be continued otherwise with it.
        content.num_reusable = sequence.num_prompt if self._decoder.is_rounded else self._context
        sequence.slot = placement.slot
        self._holders[placement.slot] = sequence

    def release(self, sequence: Sequence, now: float) -> None:
        """Free a sequence's slot; its contents stay for later prompts."""
        content = self._contents[sequence.slot]
        content.is_active = False
        content.last_used = now
        self._holders[sequence.slot] = None
        sequence.slot = -1

    def hold(self, sequence: Sequence, token: int) -> None:
        """Record that a sequence's state holds one more token."""
        content = self._contents[sequence.slot]
        content.tokens[content.length] = token
        content.length += 1
        sequence.num_in_state += 1

    def hold_prompt(self, sequence: Sequence, end: int) -> None:
        """Record that a sequence's state holds its prompt up to `end`."""
        content = self._contents[sequence.slot]
        content.tokens[content.length : end] = sequence.prompt[content.length : end]
        content.length = sequence.num_in_state = end

    def invalidate(self, sequence: Sequence) -> None:
        """Never reuse the contents of a sequence's slot."""
        self._contents[sequence.slot].length = 0

    def reset(self) -> None:
        """Free every slot, and never reuse what it holds."""
        for content in self._contents:
            content.length, content.is_active = 0, False
        self._holders = [None] * len(self._contents)

    def compact(self, decoding: list[Sequence]) -> None:
        """Move the decoding sequences to the first slots, where states can be moved, and sort them by slot."""
        if self._decoder.can_copy:
            for mover, hole in sequencing.compaction(sequence.slot for sequence in decoding):
                self._swap(mover, hole)
        decoding.sort(key=lambda sequence: sequence.slot)

    def fill(self, decoding: list[Sequence]) -> int:
        """Write the input of a step for sequences sorted by slot; return its number of rows."""
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
            position, num_valid = sequencing.padding_length(content.length, self._context, self._decoder.is_recurrent)
            self._decoder.tokens[slot], self._decoder.lengths[slot] = self._decoder.language.bos_token, position
            if not content.is_active:
                content.length = num_valid

    def _move(self, move: Move) -> None:
        if move.is_swap:
            self._swap(move.source, move.target)
            return
        source, target = self._contents[move.source], self._contents[move.target]
        self._decoder.states.copy(move.source, move.target, move.length)
        target.tokens[: move.length] = source.tokens[: move.length]
        target.length, target.last_used, target.domain = move.length, source.last_used, source.domain
        target.num_reusable = source.num_reusable

    def _swap(self, first: int, second: int) -> None:
        contents, holders = self._contents, self._holders
        length = max(contents[first].length, contents[second].length)
        self._decoder.states.swap(first, second, length)
        contents[first], contents[second] = contents[second], contents[first]
        holders[first], holders[second] = holders[second], holders[first]
        for slot in (first, second):
            if (holder := holders[slot]) is not None:
                holder.slot = slot
