"""A language model in the engine: prompts come from the event loop, a thread runs the sequencer's steps.

The events of a step are posted back to the loop at once, and leave in one frame for each API process.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.compute_watch import Work
from service.engine.device_turns import Share, Turn
from service.engine.generation.constraints import Constraint, Grammars, Masks
from service.engine.generation.decoder import LoadedDecoder
from service.engine.generation.sequencer import Sequencer
from service.engine.generation.sequences import Sequence, StepEvents
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import GenerateText, PromptScores, Sampled, SampledItem, Scored, frame
from service.errors import Cancelled, InferenceFailed, InvalidParameter, ServiceError
from service.settings import Settings
from service.telemetry.language_metrics import LanguageMetrics

log = logging.getLogger(__name__)

# A text that has come this far is not to blame if the engine ends.
NUM_PROVEN_TOKENS = 8
# So long after the last text, slots keep the prompts that the next one may begin with.
FORGET_SECONDS = 300.0

# How fast the usual time of a step is learned.
STEP_WEIGHT = 0.2

Owner = tuple[ApiConnection, int]
Order = tuple[Callable[[Sequencer, Sequence], None], Sequence]


class TextGenerator:
    """Continues texts with one language model."""

    def __init__(
        self,
        loaded: LoadedDecoder,
        settings: Settings,
        metrics: LanguageMetrics,
        clock: Callable[[], float],
        call_in_loop: Callable[..., object],
        name: str,
        share: Share,
        folder: Path,
    ) -> None:
        self.language: Language = loaded.decoder.language
        self._metrics = metrics
        self._clock = clock
        self._call_in_loop = call_in_loop
        sequencer = Sequencer(
            loaded.decoder,
            loaded.costs,
            max_step_tokens=settings.max_step_tokens,
            max_waiting=settings.max_waiting_sequences,
            clock=clock,
            post=self._post,
            metrics=metrics,
            objective_seconds=share.objective_seconds,
        )
        self.thread = SequencerThread(sequencer, f"{name}.sequencer", share, loaded.num_threads)
        masks = Masks(name, metrics.observe_masks)
        waiting = settings.max_waiting_sequences
        self._grammars = Grammars(name, folder, self.language, masks, waiting, metrics.observe_grammar)
        self._num_open = 0

    @property
    def is_idle(self) -> bool:
        """Whether every text has ended."""
        return not self._num_open

    def close(self) -> None:
        """End the threads; every text must have ended."""
        self.thread.close()
        self._grammars.close()

    def statistics(self) -> dict[str, float]:
        """Its counts since the start, and its current load."""
        return self._metrics.statistics(self._clock())

    def generate(
        self, connection: ApiConnection, message: GenerateText, payload: memoryview, priority: int = 0
    ) -> None:
        """Queue a prompt; `priority` is that of texts which do not say any.

        Raises: InvalidParameter; QueueFull.
        """
        prompt = self._prompt(payload)
        begin = partial(self._begin, connection, message, prompt, self._clock(), message.priority or priority)
        if message.sampling.grammar is None:
            begin(None)
            return
        cancelled: list[int] = []
        call = partial(self._call_in_loop, self._on_grammar, connection, message.id, cancelled, begin)
        self._grammars.open(message.sampling, prompt, call)
        connection.cancels[message.id] = lambda: cancelled.append(message.id)
        self._num_open += 1

    def _on_grammar(
        self,
        connection: ApiConnection,
        id_: int,
        cancelled: list[int],
        begin: Callable[[Constraint], object],
        result: Constraint | Exception,
    ) -> None:
        self._num_open -= 1
        if cancelled or isinstance(result, Exception):
            connection.fail(id_, result if isinstance(result, Exception) else Cancelled("The caller left."))
            return
        try:
            begin(result)
        except Exception as error:  # as the engine does for a text without a grammar
            connection.fail(id_, error)

    def _begin(
        self,
        connection: ApiConnection,
        message: GenerateText,
        prompt: NDArray[np.int32],
        arrival: float,
        priority: int,
        constraint: Constraint | None,
    ) -> None:
        owner: Owner = (connection, message.id)
        deadline = arrival + message.timeout_seconds
        sequence = Sequence(
            prompt, message.sampling, self.language, arrival, deadline, owner, message.caller, constraint
        )
        sequence.priority, sequence.request = priority, message.request
        connection.cancels[message.id] = lambda: self.thread.cancel(sequence)
        self._num_open += 1
        self.thread.submit(sequence)

    def _prompt(self, payload: memoryview) -> NDArray[np.int32]:
        if len(payload) % 4 or not payload:
            raise InvalidParameter(f"A prompt of {len(payload)} bytes is not one or more int32 tokens.")
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
    """Send the events of a step to each API process: scores, then all tokens in one frame, then ends.

    What cannot be sent fails the text that it belongs to, and no other.
    """
    for sequence, scores in events.scored:
        connection, id_ = _owner(sequence)
        try:
            connection.send(_scored(id_, scores))
        except Exception as error:
            connection.fail(id_, error)
    items: dict[ApiConnection, list[SampledItem]] = {}
    cached: dict[ApiConnection, dict[int, int]] = {}
    for sequence, token in events.sampled:
        connection, id_ = _owner(sequence)
        items.setdefault(connection, []).append((id_, *token))
        if sequence.num_reused and not sequence.is_reuse_told:
            sequence.is_reuse_told = True
            cached.setdefault(connection, {})[id_] = sequence.num_reused
        if len(sequence.new_tokens) >= NUM_PROVEN_TOKENS:
            connection.prove(id_)
    for connection, sampled in items.items():
        _send_tokens(connection, sampled, cached.get(connection, {}))
    for sequence, outcome in events.ended:
        connection, id_ = _owner(sequence)
        if isinstance(outcome, ServiceError):
            connection.fail(id_, outcome)
        else:
            connection.finish(id_)
            connection.send(frame(msgspec.structs.replace(outcome, id=id_)))


def _send_tokens(connection: ApiConnection, sampled: list[SampledItem], cached_tokens: dict[int, int]) -> None:
    try:
        connection.send(frame(Sampled(tuple(sampled), cached_tokens)))
    except Exception as error:
        if len(sampled) == 1:
            connection.fail(sampled[0][0], error)
            return
        for item in sampled:
            _send_tokens(connection, [item], cached_tokens)


def _owner(sequence: Sequence) -> Owner:
    owner: Any = sequence.owner
    return owner[0], owner[1]


def _scored(id_: int, scores: PromptScores) -> bytes:
    return frame(Scored(id_, scores.top_tokens.shape[1]), *(array.tobytes() for array in scores))


class SequencerThread:
    """Runs the steps of a sequencer until it is closed, and takes commands of other threads between them.

    Each step takes a turn on the device, of as many cores as it has threads, `num_threads` at first.
    """

    def __init__(self, sequencer: Sequencer, name: str, share: Share, num_threads: int = 1) -> None:
        self._sequencer = sequencer
        self._share = share
        self._is_due = threading.Semaphore(0)
        self._claimant = share.turns.join(num_threads, self._is_due.release, share.weight)
        sequencer.is_beside_others = partial(share.turns.is_shared, self._claimant)
        self._usual_seconds = 0.0
        self._longest_seconds = sequencer.step_seconds
        self.work: Work | None = None
        """The step that the thread computes."""
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of the thread."""
        return self._thread.name

    def submit(self, sequence: Sequence) -> None:
        """Queue a prompt before the next step."""
        self._orders.put((Sequencer.submit, sequence))

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before the next step."""
        self._orders.put((Sequencer.cancel, sequence))

    def close(self) -> None:
        """End the thread after its current step."""
        self._orders.put(None)
        self._thread.join()
        self._share.turns.leave(self._claimant)

    def _work(self) -> None:
        with contextlib.suppress(_LoopClosed):  # the process is ending
            while self._take_orders():
                turn = self._take_turn()
                self._sequencer.max_threads = turn.num_cores
                try:
                    self._step()
                finally:
                    self._share.turns.release(turn)
                    self._share.turns.settle()

    def _take_turn(self) -> Turn:
        due_at = self._share.due_at(monotonic(), self._usual_seconds)
        seconds, rank = self._usual_seconds, self._sequencer.rank
        self._claimant.num_threads = self._sequencer.num_threads
        while (turn := self._share.turns.take(self._claimant, seconds, due_at, rank)) is None:
            self._is_due.acquire()
        return turn

    def _step(self) -> None:
        began_at = monotonic()
        self.work = Work(lambda: self._sequencer.running, self._longest_seconds, began_at)
        self._try(self._sequencer.step, self._sequencer.fail_all)
        self.work = None
        self._usual_seconds += STEP_WEIGHT * (monotonic() - began_at - self._usual_seconds)

    def _take_orders(self) -> bool:
        """Carry out the pending orders, waiting for one while there is nothing else to do; False at the end."""
        patience: float | None = FORGET_SECONDS
        while True:
            try:
                order = self._orders.get(block=self._sequencer.is_idle, timeout=patience)
            except queue.Empty:
                if not self._sequencer.is_idle:
                    return True
                self._sequencer.forget()
                patience = None
                continue
            if order is None:
                return False
            self._longest_seconds = self._sequencer.step_seconds
            act, sequence = order
            self._try(partial(act, self._sequencer, sequence), partial(self._sequencer.fail, sequence))

    def _try(self, action: Callable[[], None], fail: Callable[[ServiceError], None]) -> None:
        """Act; a defect fails what is at hand, then all texts, but never the thread."""
        try:
            action()
        except Exception as error:
            if isinstance(error, RuntimeError) and "loop is closed" in str(error):
                raise _LoopClosed from error
            log.error("a text's step or order failed unexpectedly", exc_info=error)
            failed = InferenceFailed("The step failed unexpectedly.")
            failed.__cause__ = error
            if fail == self._sequencer.fail_all:
                with contextlib.suppress(Exception):  # what is left of it, the next step makes up for
                    fail(failed)
            else:
                self._try(partial(fail, failed), self._sequencer.fail_all)


class _LoopClosed(Exception):
    """The event loop that takes the texts is closed."""
