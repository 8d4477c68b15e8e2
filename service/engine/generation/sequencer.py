"""Continuous batching: admits prompts to slots, computes them in chunks, and decodes all running texts in one step.

Decisions are made in `sequencing.py`, computations by the decoder. It has no thread and no clock of its own, and knows
neither connections nor messages.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import numpy as np

from service.engine.fairness import GUARANTEED_SHARE, LAST_RANK, RankedQueue, may_displace, rank
from service.engine.generation import sampling, sequencing
from service.engine.generation.sampling import Floats
from service.engine.generation.sequences import Sequence, SlotDecoder, Slots, StepEvents, joined
from service.engine.generation.sequencing import StepCost
from service.engine.transport.messages import Finished, Token
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    InferenceFailed,
    NonFiniteOutput,
    QueueFull,
    ServiceError,
)
from service.telemetry.language_metrics import LanguageMetrics

log = logging.getLogger(__name__)

# Of the slots, requests of many texts leave so many to those that have none.
KEPT_SHARE = 1 / 8


class Sequencer:
    """The sequences of one language model, driven step by step."""

    def __init__(
        self,
        decoder: SlotDecoder,
        cost: StepCost,
        *,
        max_step_tokens: int,
        max_waiting: int,
        clock: Callable[[], float],
        post: Callable[[StepEvents], None],
        metrics: LanguageMetrics,
        objective_seconds: float | None = None,
    ) -> None:
        self._decoder = decoder
        self._language = decoder.language
        self._cost = cost
        self._max_step_tokens = max_step_tokens
        self._objective_seconds = objective_seconds
        self._most_rows = sequencing.most_rows(decoder.num_slots, cost, objective_seconds)
        self._max_waiting = max_waiting
        self._clock = clock
        self._post = post
        self._metrics = metrics
        self._waiting: RankedQueue[Sequence] = RankedQueue()  # of tokens
        self._prefilling: Sequence | None = None
        self._decoding: list[Sequence] = []
        self._slots = Slots(decoder)
        self._events = StepEvents()
        # A padding row would overwrite a recurrent state that is being built up: such a prompt is computed in one step.
        self._is_interleaved = not (decoder.has_padding and decoder.is_recurrent)
        self._sequence_seconds = 0.0
        self._now = 0.0
        self.is_beside_others: Callable[[], bool] = lambda: False
        """Whether others compute on the device, who must not wait for a long step."""

    @property
    def num_waiting(self) -> int:
        """The number of prompts without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have a slot."""
        prefilling = self._prefilling  # another thread may ask
        return [*self._decoding, *((prefilling,) if prefilling else ())]

    @property
    def rank(self) -> int:
        """The best rank of what the next step computes."""
        first = (self._waiting.first(),) if self._waiting and self._slots.num_free else ()
        return min((rank(sequence.priority) for sequence in (*self.running, *first)), default=LAST_RANK)

    @property
    def step_seconds(self) -> float:
        """What the longest step should take."""
        num_tokens = self._max_step_tokens if self._is_interleaved else self._language.context
        return self._cost.decode(self._decoder.num_slots) + num_tokens * self._cost.prefill_token_seconds

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do before the next call."""
        return not (self._waiting or self._decoding or self._prefilling or self._events)

    def forget(self) -> None:
        """Give back the memory of the slots, with the prompts in them; nothing may be running."""
        self._slots.reset()
        self._decoder.states.release()

    # --- arrivals and departures, between steps ---

    def submit(self, sequence: Sequence) -> None:
        """Queue a prompt, or refuse it in the next step's events."""
        self._now = self._clock()
        if len(self._waiting) >= self._max_waiting + self._slots.num_free and not self._displace(sequence):
            message = f"The queue is full: {len(self._waiting)} texts are waiting, at most {self._max_waiting} may."
            self._end(sequence, self._queue_full(message))
            return
        self._waiting.append(sequence)

    def _displace(self, sequence: Sequence) -> bool:
        """Make room for a better priority, or for less than an equal share of the full queue; whether there is room."""
        held, name = self._waiting.held(), sequence.caller.name
        num_own, to = held.get(name, 0), "one of a better priority"
        last = self._waiting.last_behind(sequence.priority)
        if last is None or self._waiting.num_behind(sequence.priority) <= GUARANTEED_SHARE * len(self._waiting):
            if not held or not may_displace(num_own, 1, len(held) + (not num_own), len(self._waiting)):
                return False
            last, to = self._waiting.last_of(max(held, key=held.__getitem__)), "another caller's, who has fewer in it"
        assert last is not None
        self._end(last, self._queue_full(f"The queue is full, and this text gave way to {to}."))
        return True

    def _queue_full(self, message: str) -> QueueFull:
        num_slots = self._decoder.num_slots
        seconds = sequencing.retry_after_seconds(len(self._waiting), num_slots, self._sequence_seconds)
        return QueueFull(message, retry_after_seconds=seconds)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence whose caller left."""
        self._now = self._clock()
        self._drop(sequence, Cancelled("The caller left."))

    def fail(self, sequence: Sequence, error: ServiceError) -> None:
        """End a sequence whose order was not carried out; where that may have got half way, end everything."""
        if sequence.is_over or sequence.slot >= 0:
            self.fail_all(error)
        else:
            self._drop(sequence, error)

    def fail_all(self, error: ServiceError) -> None:
        """End everything after a defect, whatever it has left half done, and never reuse what the slots hold."""
        lost = [sequence for sequence in dict.fromkeys((*self.running, *self._waiting)) if not sequence.is_over]
        self._waiting = RankedQueue()
        self._decoding, self._prefilling = [], None
        self._slots.reset()
        for sequence in lost:
            sequence.is_over, sequence.slot = True, -1
            self._events.ended.append((sequence, error))
        self._flush()
        for _ in lost:
            self._metrics.count_end(error.code)

    # --- one step ---

    def step(self) -> None:
        """Compute chunks of prompts, then one token of every running text, and post the events of each at once."""
        started = self._now = self._clock()
        self._expire()
        num_prefilled = self._compute_prompts()
        self._flush()
        num_rows = len(self._decoding)
        if num_rows:
            self._decode()
        if num_rows or num_prefilled:
            self._metrics.observe_step(self._now - started, num_rows, num_prefilled)
        self._gauge()
        self._flush()

    def _flush(self) -> None:
        if self._events:
            self._post(self._events)
            self._events = StepEvents()

    def _expire(self) -> None:
        for sequence in (*self.running, *self._waiting):
            if sequence.deadline <= self._now:
                message = f"The deadline passed after {len(sequence.new_tokens)} of {sequence.max_new} tokens."
                self._drop(sequence, DeadlineExceeded(message))

    def _gauge(self) -> None:
        running = self.running
        held = sum(sequence.num_in_state for sequence in running)
        capacity = self._decoder.num_slots * self._language.context
        self._metrics.gauge(len(running), len(self._waiting), held / capacity)

    # --- prompts ---

    def _compute_prompts(self) -> int:
        """Compute chunks of prompts within the budget, and the first token of those that are complete."""
        first = self._prefilling or (self._waiting.first() if self._waiting else None)
        if first is None:
            return 0
        waited = max(self._now - first.arrival, 0.0)
        budget = sequencing.chunk_budget(len(self._decoding), waited, self._cost, self._max_step_tokens)
        if budget > sequencing.MIN_CHUNK_TOKENS and self._is_interleaved and self.is_beside_others():
            budget = sequencing.budget_beside_others(budget, len(self._decoding), self._cost)
        if self._objective_seconds is not None and self._is_interleaved:
            budget = sequencing.budget_within(self._objective_seconds, budget, len(self._decoding), self._cost)
        started_now: list[tuple[Sequence, Floats]] = []
        num_done = 0
        while num_done < budget and (sequence := self._prefilling or self._admit()) is not None:
            room = budget - num_done if self._is_interleaved else self._language.context
            num_tokens = min(room, sequence.num_prompt - sequence.num_in_state, self._decoder.max_chunk)
            num_done += num_tokens
            logits = self._compute_chunk(sequence, num_tokens)
            if logits is not None and sequence.is_prefilled and self._start(sequence):
                started_now.append((sequence, logits.copy()))
        if started_now:
            sequences, logits = (
                [sequence for sequence, _ in started_now],
                np.concatenate([row for _, row in started_now]),
            )
            self._sample(sequences, logits)
        return num_done

    def _admit(self) -> Sequence | None:
        if not self._waiting or not self._slots.num_free or len(self._decoding) >= self._most_rows:
            return None
        if (sequence := self._next_waiting()) is None:
            return None
        self._prefilling = sequence
        is_first = sequence is self._waiting.first()
        self._slots.take(sequence)
        num_tokens = sequence.num_prompt - sequence.num_reused
        if is_first:
            self._waiting.took(sequence, num_tokens, is_gone=True)
        else:
            self._waiting.remove(sequence)
            self._waiting.use(sequence, num_tokens)
        sequence.admitted_at = self._clock()
        queue_seconds = max(sequence.admitted_at - sequence.arrival, 0.0)
        self._metrics.count_prompt(sequence.num_prompt, sequence.num_reused, queue_seconds)
        return sequence

    def _next_waiting(self) -> Sequence | None:
        """Whose turn it is; the last slots are for requests without one, who would wait for the end of a whole text."""
        first = self._waiting.first()
        if self._slots.num_free > int(KEPT_SHARE * self._decoder.num_slots):
            return first
        held = Counter(each.request for each in self._decoding)
        held[0] = 0  # each of those is a request of its own
        return (
            first if not held[first.request] else next((each for each in self._waiting if not held[each.request]), None)
        )

    def _compute_chunk(self, sequence: Sequence, num_tokens: int) -> Floats | None:
        """Compute a chunk of a prompt: the logits of its last token [1, V] or of none [0, V]; None where it failed."""
        start, end = sequence.num_in_state, sequence.num_in_state + num_tokens
        is_last = end == sequence.num_prompt
        positions = list(range(num_tokens)) if sequence.is_scored else [num_tokens - 1] if is_last else []
        sequence.num_steps += 1
        try:
            logits = self._decoder.prefill(sequence.slot, sequence.prompt[start:end], start, positions)
        except Exception as error:
            self._fail(sequence, _failed(error))
            return None
        self._slots.hold_prompt(sequence, end)
        if sequence.is_scored and not self._score(sequence, logits, start):
            return None
        return logits[-1:] if is_last else logits[:0]

    def _score(self, sequence: Sequence, logits: Floats, start: int) -> bool:
        if not np.isfinite(logits).all():
            self._fail(sequence, _non_finite())
            return False
        targets = sequence.prompt[start + 1 : start + 1 + len(logits)]
        num_top = sequence.sampling.prompt_logprobs
        sequence.scores.append(sampling.scores(logits[: len(targets)], targets, num_top))
        return True

    def _start(self, sequence: Sequence) -> bool:
        """Let a sequence whose prompt is computed join the decoding ones; False where it asks for no token."""
        sequence.prefilled_at = self._clock()
        self._prefilling = None
        self._decoding.append(sequence)
        if sequence.is_scored:
            self._events.scored.append((sequence, joined(sequence.scores)))
        if not sequence.max_new:
            self._finish(sequence, "length")
        return not sequence.is_over

    # --- decoding ---

    def _decode(self) -> None:
        """Compute and choose one more token of every sequence."""
        sequences = self._decoding
        self._slots.compact(sequences)
        num_rows = self._slots.fill(sequences)
        try:
            logits = self._decoder.decode(num_rows)
        except InferenceFailed as error:
            log.warning("a step failed and is retried row by row", extra={"rows": num_rows, "reason": error.message})
            logits = self._retry(num_rows)
        for sequence in sequences:
            self._slots.hold(sequence, sequence.new_tokens[-1])
            sequence.num_steps += 1
        if len(sequences) < num_rows:
            logits = logits[[sequence.slot for sequence in sequences]]
        if sequences:
            self._sample(list(sequences), logits)

    def _retry(self, num_rows: int) -> Floats:
        """Compute a failed step one row at a time, and end the rows that fail alone."""
        rows = np.zeros((num_rows, self._language.vocab_size), np.float32)
        for sequence in list(self._decoding):
            try:
                rows[sequence.slot] = self._recompute(sequence)
            except InferenceFailed as error:
                self._fail(sequence, error)
        return rows

    def _recompute(self, sequence: Sequence) -> Floats:
        # A recurrent state may have advanced before the step failed, so it is rebuilt from the beginning.
        tokens = sequence.tokens
        start = 0 if self._decoder.is_recurrent else sequence.num_in_state
        for chunk in range(start, len(tokens), self._decoder.max_chunk):
            part = tokens[chunk : chunk + self._decoder.max_chunk]
            logits = self._decoder.prefill(sequence.slot, part, chunk, [len(part) - 1])
        row: Floats = logits[0]
        return row

    # --- tokens and ends ---

    def _sample(self, sequences: list[Sequence], logits: Floats) -> None:
        choices = _choose(sequences, logits)
        self._now = self._clock()
        self._metrics.observe_tokens(sequences, self._now)
        for sequence, choice in zip(sequences, choices, strict=True):
            if not isinstance(choice, Token):
                self._fail(sequence, choice or _non_finite())
                continue
            sequence.sampler.accept(choice.token)
            sequence.new_tokens.append(choice.token)
            self._waiting.use(sequence, 1)
            self._events.sampled.append((sequence, choice))
            num_new, ends = len(sequence.new_tokens), sequence.end_tokens
            reason = sequencing.finish_reason(choice.token, num_new, sequence.max_new, ends)
            if reason is not None:
                self._finish(sequence, reason)

    def _finish(self, sequence: Sequence, reason: str) -> None:
        now = self._clock()
        seconds = now - sequence.admitted_at
        self._sequence_seconds += 0.1 * (seconds - self._sequence_seconds) if self._sequence_seconds else seconds
        finished = Finished(
            0,  # set when it is sent
            reason,
            sequence.num_prompt,
            sequence.num_reused,
            sequence.admitted_at - sequence.arrival,
            sequence.prefilled_at - sequence.admitted_at,
            now - sequence.prefilled_at,
            sequence.num_steps,
        )
        self._end(sequence, finished)

    def _fail(self, sequence: Sequence, error: ServiceError) -> None:
        self._slots.invalidate(sequence)
        self._drop(sequence, error)

    def _drop(self, sequence: Sequence, error: ServiceError) -> None:
        if not sequence.is_over:
            self._end(sequence, error)

    def _end(self, sequence: Sequence, outcome: Finished | ServiceError) -> None:
        sequence.is_over = True
        self._events.ended.append((sequence, outcome))
        if sequence is self._prefilling:
            self._prefilling = None
        elif sequence.slot >= 0:
            self._decoding.remove(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.slot >= 0:
            self._slots.release(sequence, self._now)
        self._metrics.count_end(outcome.code if isinstance(outcome, ServiceError) else outcome.reason)


def _choose(sequences: list[Sequence], logits: Floats) -> list[Token | ServiceError | None]:
    """The next token of each sequence; an error where choosing fails for one of them alone, None for want of logits."""
    try:
        return [*sampling.choose(logits, [sequence.sampler for sequence in sequences])]
    except Exception as error:
        if len(sequences) == 1:
            return [_failed(error)]
        return [_choose([each], logits[row : row + 1])[0] for row, each in enumerate(sequences)]


def _failed(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    log.error("a text failed unexpectedly", exc_info=error)
    failed = InferenceFailed("The text failed unexpectedly; the log says why.")
    failed.__cause__ = error
    return failed


def _non_finite() -> NonFiniteOutput:
    return NonFiniteOutput("The model's output is not finite for this text.")
