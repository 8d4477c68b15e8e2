"""One text that is being continued, and what a step of the engine says of all of them.

It holds progress only: who decides is `sequencing.py`, who acts is `sequencer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.generation.sampling import Choice, Draws, Floats
from service.engine.generation.sequencing import max_new_tokens
from service.engine.transport.messages import Sampling
from service.errors import ServiceError


class Sequence:
    """A prompt and its continuation: how far it is, and where."""

    def __init__(
        self,
        prompt: NDArray[np.int32],
        sampling: Sampling,
        language: Language,
        arrival: float,
        deadline: float,
        owner: object = None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.arrival = arrival
        self.deadline = deadline
        self.owner = owner
        self.slot = -1
        self.is_over = False
        self.draws = Draws(sampling, prompt, language.vocab_size)
        self.new_tokens: list[int] = []
        self.max_new = max_new_tokens(len(prompt), sampling.max_tokens, language.context)
        self.num_in_state = 0
        self.num_reused = 0
        self.num_steps = 0
        self.admitted_at = 0.0
        self.prefilled_at = 0.0
        self.last_token_at = 0.0
        self.scores: list[Scores] = []

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    @property
    def is_prefilled(self) -> bool:
        """Whether the state holds the whole prompt."""
        return self.num_in_state >= self.num_prompt

    @property
    def is_scored(self) -> bool:
        """Whether the log probabilities of the prompt are wanted."""
        return self.sampling.prompt_logprobs >= 0

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The prompt and what was generated."""
        return np.concatenate((self.prompt, np.array(self.new_tokens, np.int32)))


@dataclass(frozen=True, slots=True)
class Scores:
    """Log probabilities of consecutive prompt tokens [N], and the likeliest tokens with theirs [N, K]."""

    logprobs: Floats
    top_tokens: NDArray[np.int32]
    top_logprobs: Floats


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ended, and what it took."""

    reason: str
    prompt_tokens: int
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    steps: int


@dataclass(slots=True)
class StepEvents:
    """What one step brought: scores of prompts, then tokens, then ends."""

    scored: list[tuple[Sequence, Scores]] = field(default_factory=list)
    sampled: list[tuple[Sequence, Choice]] = field(default_factory=list)
    ended: list[tuple[Sequence, Ending | ServiceError]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.scored or self.sampled or self.ended)


def joined(parts: list[Scores]) -> Scores:
    """Scores of consecutive chunks as one."""
    if len(parts) == 1:
        return parts[0]
    return Scores(
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.top_tokens for part in parts]),
        np.concatenate([part.top_logprobs for part in parts]),
    )
