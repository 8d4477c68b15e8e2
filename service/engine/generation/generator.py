"""A language model in the engine's event loop: prompts of peers in, one frame for each peer and step out.

The work is done in the sequencer's thread; what that brings is posted here once a step. It knows no sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.generation.sequencer import Sequencer
from service.engine.generation.sequencer_thread import SequencerThread
from service.engine.generation.sequences import Ending, Scores, Sequence, StepEvents
from service.engine.repository.language_loading import LoadedDecoder
from service.engine.transport.api_connection import ApiConnection, failure_frame
from service.engine.transport.messages import Finished, Generate, Sampled, SampledItem, Scored, frame
from service.errors import InvalidParameter, ServiceError
from service.settings import Settings
from service.telemetry.language_metrics import LanguageMetrics

Owner = tuple[ApiConnection, int]


class Generator:
    """Continues texts with one language model."""

    def __init__(
        self,
        loaded: LoadedDecoder,
        settings: Settings,
        metrics: LanguageMetrics,
        clock: Callable[[], float],
        call_in_loop: Callable[..., object],
        name: str,
    ) -> None:
        self.language: Language = loaded.decoder.language
        self._metrics = metrics
        self._clock = clock
        self._call_in_loop = call_in_loop
        sequencer = Sequencer(
            loaded.decoder,
            loaded.cost,
            max_step_tokens=settings.max_step_tokens,
            max_waiting=settings.max_waiting_sequences,
            clock=clock,
            post=self._post,
            metrics=metrics,
        )
        self._thread = SequencerThread(sequencer, f"{name}.sequencer")
        self._num_open = 0

    @property
    def is_idle(self) -> bool:
        """Whether every text has ended."""
        return not self._num_open

    def close(self) -> None:
        """End the thread; every text must have ended."""
        self._thread.close()

    def statistics(self) -> dict[str, float]:
        """What it has done since the start, and does now."""
        return self._metrics.statistics(self._clock())

    def generate(self, peer: ApiConnection, message: Generate, payload: memoryview) -> None:
        """Queue a prompt.

        Raises: InvalidParameter.
        """
        prompt = self._prompt(payload)
        now = self._clock()
        owner: Owner = (peer, message.id)
        sequence = Sequence(prompt, message.sampling, self.language, now, now + message.timeout_seconds, owner)
        peer.cancels[message.id] = lambda: self._thread.cancel(sequence)
        self._num_open += 1
        self._thread.submit(sequence)

    def _prompt(self, payload: memoryview) -> NDArray[np.int32]:
        if len(payload) % 4 or not payload:
            raise InvalidParameter(f"A prompt of {len(payload)} bytes is not a number of int32 tokens from 1 on.")
        prompt = np.frombuffer(payload, np.int32).copy()  # the frame's memory is not kept
        if len(prompt) > self.language.context:
            raise InvalidParameter(f"The prompt has {len(prompt)} tokens; at most {self.language.context} fit.")
        if prompt.min() < 0 or prompt.max() >= self.language.vocab_size:
            wrong = prompt[(prompt < 0) | (prompt >= self.language.vocab_size)][0]
            raise InvalidParameter(f"Token {wrong} is not below the vocabulary's size {self.language.vocab_size}.")
        return prompt

    def _post(self, events: StepEvents) -> None:
        self._call_in_loop(self._deliver, events)

    def _deliver(self, events: StepEvents) -> None:
        self._num_open -= len(events.ended)
        deliver(events)


def deliver(events: StepEvents) -> None:
    """Send what a step brought: to each peer its scores, its tokens in one frame, then its ends."""
    for sequence, scores in events.scored:
        peer, id_ = _owner(sequence)
        peer.send(_scored(id_, scores))
    items: dict[ApiConnection, list[SampledItem]] = {}
    for sequence, choice in events.sampled:
        peer, id_ = _owner(sequence)
        items.setdefault(peer, []).append((id_, choice.token, choice.logprob, choice.top))
    for peer, sampled in items.items():
        peer.send(frame(Sampled(tuple(sampled))))
    for sequence, outcome in events.ended:
        peer, id_ = _owner(sequence)
        peer.cancels.pop(id_, None)
        peer.send(_ended(id_, outcome))


def _owner(sequence: Sequence) -> Owner:
    owner: Any = sequence.owner
    return owner[0], owner[1]


def _scored(id_: int, scores: Scores) -> bytes:
    parts = (scores.logprobs, scores.top_tokens, scores.top_logprobs)
    return frame(Scored(id_, scores.top_tokens.shape[1]), *(part.tobytes() for part in parts))


def _ended(id_: int, outcome: Ending | ServiceError) -> bytes:
    if isinstance(outcome, ServiceError):
        return failure_frame(id_, outcome)
    return frame(
        Finished(
            id_,
            outcome.reason,
            outcome.prompt_tokens,
            outcome.cached_tokens,
            outcome.queue_seconds,
            outcome.prefill_seconds,
            outcome.decode_seconds,
            outcome.steps,
        )
    )
