"""Continuous batching: admits prompts to slots, computes them in chunks, and decodes all running texts in one step.

Decisions are made in `sequencing.py`, computations by the decoder. It has no thread and no clock of its own, and knows
neither connections nor messages.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import takewhile

import numpy as np

from service.engine.device_turns import LONG_SECONDS
from service.engine.fairness import GUARANTEED_SHARE, LAST_RANK, RankedQueue, may_displace, rank
from service.engine.generation import constraints, sampling, sequencing
from service.engine.generation.sampling import Floats
from service.engine.generation.sequences import Sequence, SlotDecoder, Slots, StepEvents, joined
from service.engine.generation.step_costs import DECODE, PREFILL, StepCosts
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
        costs: StepCosts,
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
        self._costs = costs
        self._max_step_tokens = max_step_tokens
        self._objective_seconds = objective_seconds
        self._max_waiting = max_waiting
        self._clock = clock
        self._post = post
        self._metrics = metrics
        self._waiting: RankedQueue[Sequence] = RankedQueue()  # of tokens
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._slots = Slots(decoder)
        self._events = StepEvents()
        # A padding row would overwrite a recurrent state that is being built up: such a prompt is computed in one step.
        self._is_interleaved = not (decoder.has_padding and decoder.is_recurrent)
        self._sequence_seconds = 0.0
        self._now = 0.0
        self.max_threads = 2**31
        """On how many cores the next step may compute."""
        self.is_beside_others: Callable[[], bool] = lambda: False
        """Whether others compute on the device, who must not wait for a long step."""

    @property
    def num_waiting(self) -> int:
        """The number of prompts without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have a slot."""
        return [*self._decoding, *self._prefilling]

    @property
    def rank(self) -> int:
        """The best rank of what the next step computes."""
        first = (self._waiting.first(),) if self._waiting and self._slots.num_free else ()
        return min((rank(sequence.priority) for sequence in (*self.running, *first)), default=LAST_RANK)

    @property
    def step_seconds(self) -> float:
        """What the longest step should take."""
        num_tokens = self._max_step_tokens if self._is_interleaved else self._language.context
        decode_seconds = self._costs.decode(self._decoder.num_slots, self._language.context)
        return decode_seconds + num_tokens * self._costs.prefill_token_seconds

    @property
    def num_threads(self) -> int:
        """The most threads that the next step computes with."""
        kinds = (DECODE, PREFILL) if self._prefilling or self._waiting else (DECODE,)
        # Trials take what is free, and no cores from others.
        of_kind = self._costs.num_threads if self.is_beside_others() else self._costs.wanted_threads
        return max(of_kind(kind) for kind in kinds)

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
        self._decoding, self._prefilling = [], []
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
        further = self._next_prompt if num_prefilled else None
        num_rows = 0 if further is not None and self._patience_seconds(further) > 0 else len(self._decoding)
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

    @property
    def _next_prompt(self) -> Sequence | None:
        """The prompt that is computed next, if one can be."""
        if self._prefilling:
            return self._prefilling[0]
        return self._next_waiting() if self._waiting and self._has_room else None

    @property
    def _has_room(self) -> bool:
        if not self._slots.num_free:
            return False
        most = self._costs.most_rows(self._decoder.num_slots, self._mean_length, self._objective_seconds)
        return len(self._decoding) + len(self._prefilling) < most

    @property
    def _mean_length(self) -> float:
        """The tokens of a text in the next step, on average."""
        return sum(sequence.num_in_state for sequence in self._decoding) / max(len(self._decoding), 1)

    def _patience_seconds(self, prompt: Sequence) -> float:
        """How long the texts that decode can wait for a prompt, as they arrived together with it and have just begun.

        Each computed by itself between their steps, prompts would wait longer for each other than they do.
        """
        first = min(self._decoding, key=lambda sequence: sequence.prefilled_at, default=None)
        if first is None or prompt.arrival > first.arrival + sequencing.TOGETHER_SECONDS:
            return 0.0
        return first.prefilled_at + sequencing.BEGINNING_SECONDS - self._clock()

    def _compute_prompts(self) -> int:
        """Compute prompts within the budget, and the first token of each that is complete, which leaves at once."""
        if (first := self._next_prompt) is None:
            return 0
        budget = self._budget(first)
        num_done = 0
        while num_done < budget and (sequences := self._next_prompts(budget - num_done)):
            if len(sequences) > 1:
                num_done += self._compute_together(sequences)
            else:
                room = budget - num_done if self._is_interleaved else self._language.context
                num_done += self._compute_chunk(sequences[0], min(room, self._decoder.max_chunk))
            self._flush()
        return num_done

    def _budget(self, first: Sequence) -> int:
        """How many tokens of prompts this step may compute, whose first is given."""
        num_decoding, token_seconds = len(self._decoding), self._costs.prefill_token_seconds
        budget = max(self._max_step_tokens - num_decoding, 1)
        decode_seconds, bounds = 0.0, []
        if num_decoding:
            decode_seconds = self._costs.decode(num_decoding, self._mean_length)
            even_seconds = sequencing.prompt_seconds(decode_seconds, max(self._now - first.arrival, 0.0))
            bounds.append(max(even_seconds, self._patience_seconds(first)))
        if self._is_interleaved:
            if self.is_beside_others():
                bounds.append(sequencing.PROMPT_SECONDS if num_decoding else LONG_SECONDS)
            if self._objective_seconds is not None:
                bounds.append(self._objective_seconds - decode_seconds)
        return min([budget, *(sequencing.tokens_within(seconds, token_seconds) for seconds in bounds)])

    def _next_prompts(self, room: int) -> list[Sequence]:
        """The prompts that are computed next: those that are computed as one, or the first; empty if there is none."""
        max_tokens = min(room, self._decoder.max_chunk, sequencing.MAX_JOINED_TOKENS)
        while True:
            joined = self._joined(max_tokens)
            has_end = len(joined) < len(self._prefilling) or (self._prefilling and not self._decoder.can_join)
            if has_end or self._admit() is None:
                return joined

    def _joined(self, max_tokens: int) -> list[Sequence]:
        first = self._prefilling[:1]
        if not first or not self._decoder.can_join:
            return first
        places = enumerate(self._prefilling, first[0].slot)
        whole = [each for slot, each in takewhile(lambda place: _can_join(*place), places)]
        return whole[: sequencing.num_joined((each.num_prompt for each in whole), max_tokens)] or first

    def _admit(self) -> Sequence | None:
        if not self._waiting or not self._has_room or (sequence := self._next_waiting()) is None:
            return None
        self._prefilling.append(sequence)
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
        held = Counter(each.request for each in self.running)
        held[0] = 0  # each of those is a request of its own
        return (
            first if not held[first.request] else next((each for each in self._waiting if not held[each.request]), None)
        )

    def _compute_together(self, sequences: list[Sequence]) -> int:
        """Compute whole prompts as one; each by itself where that fails. Returns the number of their tokens."""
        num_tokens = sum(sequence.num_prompt for sequence in sequences)
        prompts = [sequence.prompt for sequence in sequences]
        positions = [range(0 if each.is_scored else each.num_prompt - 1, each.num_prompt) for each in sequences]
        compute = partial(self._decoder.prefill_together, sequences[0].slot, prompts, positions)
        try:
            is_usual = not any(sequence.is_scored for sequence in sequences)
            logits = self._run(PREFILL, num_tokens, compute) if is_usual else compute()
        except Exception as error:
            log.warning("prompts failed together and are computed one by one", extra={"reason": str(error)})
            return sum(self._compute_chunk(sequence, self._decoder.max_chunk) for sequence in sequences)
        for sequence in sequences:
            sequence.num_steps += 1
            self._slots.hold_prompt(sequence, sequence.num_prompt)
        ends = np.cumsum([len(each) for each in positions])
        parts = zip(sequences, np.split(logits, ends[:-1]), strict=True)
        fine = [not each.is_scored or self._score(each, part, 0) for each, part in parts]
        self._begin(
            [each for each, is_fine in zip(sequences, fine, strict=True) if is_fine], logits[ends[np.array(fine)] - 1]
        )
        return num_tokens

    def _compute_chunk(self, sequence: Sequence, max_tokens: int) -> int:
        """Compute a chunk of a prompt, and the first token after the last one; returns the number of its tokens."""
        start = sequence.num_in_state
        num_tokens = min(max_tokens, sequence.num_prompt - start)
        end = start + num_tokens
        is_last = end == sequence.num_prompt
        positions = list(range(num_tokens)) if sequence.is_scored else [num_tokens - 1] if is_last else []
        sequence.num_steps += 1
        compute = partial(self._decoder.prefill, sequence.slot, sequence.prompt[start:end], start, positions)
        try:
            # Logits of every token cost more than is usual, and nothing is learned from that.
            logits = compute() if sequence.is_scored else self._run(PREFILL, num_tokens, compute)
        except Exception as error:
            self._fail(sequence, _failed(error))
            return num_tokens
        self._slots.hold_prompt(sequence, end)
        if (not sequence.is_scored or self._score(sequence, logits, start)) and is_last:
            self._begin([sequence], logits[-1:])
        return num_tokens

    def _run(self, kind: str, size: int, compute: Callable[[], Floats], length: float = 0.0) -> Floats:
        """Compute with the number of threads that pays, and learn what it took."""
        num_threads = self._costs.choose(kind, size, self.max_threads)
        self._decoder.use(num_threads)
        began_at = self._clock()
        logits = compute()
        self._costs.observe(kind, num_threads, size, length, self._clock() - began_at)
        return logits

    def _score(self, sequence: Sequence, logits: Floats, start: int) -> bool:
        if not np.isfinite(logits).all():
            self._fail(sequence, _non_finite())
            return False
        targets = sequence.prompt[start + 1 : start + 1 + len(logits)]
        num_top = sequence.sampling.prompt_logprobs
        sequence.scores.append(sampling.scores(logits[: len(targets)], targets, num_top))
        return True

    def _begin(self, sequences: list[Sequence], logits: Floats) -> None:
        """Let sequences whose prompts are computed join the decoding ones, and choose the first token of each."""
        for sequence in sequences:
            sequence.prefilled_at = self._clock()
            self._prefilling.remove(sequence)
            self._decoding.append(sequence)
            if sequence.is_scored:
                self._events.scored.append((sequence, joined(sequence.scores)))
            if sequence.is_complete or not sequence.max_new:
                self._finish(sequence, "stop" if sequence.is_complete else "length")
        rows = [row for row, sequence in enumerate(sequences) if not sequence.is_over]
        if rows:
            self._sample([sequences[row] for row in rows], logits if len(rows) == len(sequences) else logits[rows])

    # --- decoding ---

    def _decode(self) -> None:
        """Compute and choose one more token of every sequence."""
        sequences = self._decoding
        self._slots.compact(sequences)
        num_rows = self._slots.fill(sequences)
        try:
            logits = self._run(DECODE, num_rows, partial(self._decoder.decode, num_rows), self._mean_length)
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
            if sequence.is_complete:
                reason = "stop"
            if reason is not None:
                self._finish(sequence, reason)
        constraints.begin(each.sampler.constraint for each in sequences if not each.is_over)

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
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        elif sequence.slot >= 0:
            self._decoding.remove(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.slot >= 0:
            self._slots.release(sequence, self._now)
        self._metrics.count_end(outcome.code if isinstance(outcome, ServiceError) else outcome.reason)


def _can_join(slot: int, sequence: Sequence) -> bool:
    """Whether a whole prompt is to be computed in that slot."""
    return sequence.slot == slot and not sequence.num_in_state


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
