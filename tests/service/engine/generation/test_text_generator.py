"""The thread around a sequencer: orders between steps, sleep, and defects that end nothing else."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.engine.device_turns import DeviceTurns, Share
from service.engine.generation import text_generator
from service.engine.generation.sequencer import Sequencer
from service.engine.generation.sequences import Sequence, StepEvents
from service.engine.generation.step_costs import StepCosts
from service.engine.generation.text_generator import SequencerThread
from service.engine.transport.messages import Sampling
from service.errors import Cancelled, InferenceFailed
from service.telemetry.language_metrics import LanguageMetrics
from service.telemetry.metrics import Metrics
from tests.fake_models.text_generation import AttentionDecoder, random_tokens
from tests.servers import until
from tests.service.engine.fakes import Faults
from tests.service.engine.texts import COST, decoder, network


class Case:
    """A thread on a real small decoder, and what it posts."""

    def __init__(self, share: Share | None = None, costs: StepCosts | None = None) -> None:
        self.posts: queue.SimpleQueue[StepEvents] = queue.SimpleQueue()
        self.post: Callable[[StepEvents], None] = self.posts.put
        self.outcomes: dict[Sequence, Any] = {}
        self.decoder = decoder(num_slots=2)
        sequencer = Sequencer(
            self.decoder,
            costs or StepCosts({1: COST}),
            max_step_tokens=64,
            max_waiting=8,
            clock=time.monotonic,
            post=lambda events: self.post(events),
            metrics=LanguageMetrics(Metrics(CollectorRegistry()), "tiny", "1"),
        )
        self.sequencer = sequencer
        self.thread = SequencerThread(sequencer, "test", share or Share(DeviceTurns(1, monotonic)))

    def submit(self, max_tokens: int = 5, seed: int = 0) -> Sequence:
        now = time.monotonic()
        prompt = np.array(random_tokens(6, seed), np.int32)
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        sequence = Sequence(prompt, sampling, self.decoder.language, now, now + 60)
        self.thread.submit(sequence)
        return sequence

    def outcome(self, sequence: Sequence) -> Any:
        """Wait for a text's end."""
        while sequence not in self.outcomes:
            for ended, outcome in self.posts.get(timeout=30).ended:
                assert ended not in self.outcomes, "a text ended twice"
                self.outcomes[ended] = outcome
        return self.outcomes[sequence]


def test_texts_come_from_the_thread_and_a_cancelled_one_ends_at_once() -> None:
    case = Case()

    first = case.submit()
    assert case.outcome(first).reason == "length"
    assert first.new_tokens == network(AttentionDecoder).greedy(random_tokens(6), 5)
    endless = case.submit(100)
    case.thread.cancel(endless)
    assert isinstance(case.outcome(endless), Cancelled)

    case.thread.close()


@pytest.mark.parametrize("defect", [ZeroDivisionError, RuntimeError])
def test_a_defect_fails_the_texts_in_hand_and_the_thread_goes_on(defect: type[Exception]) -> None:
    case = Case()
    real = case.decoder.decode

    def broken(num_rows: int) -> Any:
        case.decoder.decode = real  # type: ignore[method-assign]
        raise defect("A defect.")

    case.decoder.decode = broken  # type: ignore[method-assign]

    failed = case.submit()
    outcome = case.outcome(failed)
    assert isinstance(outcome, InferenceFailed)
    assert isinstance(outcome.__cause__, defect)
    assert case.outcome(case.submit(seed=1)).reason == "length"

    case.thread.close()


def test_slots_that_were_long_without_a_text_give_their_memory_back_and_remember_no_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_generator, "FORGET_SECONDS", 0.05)
    case = Case()
    first = case.submit()
    case.outcome(first)
    until(lambda: not any(array.any() for array in case.decoder.states._arrays.values()))

    again = case.submit()
    assert case.outcome(again).cached_tokens == 0
    assert again.new_tokens == first.new_tokens

    case.thread.close()


def test_the_thread_ends_when_the_loop_it_posts_to_is_closed() -> None:
    case = Case()

    def closed(_events: StepEvents) -> None:
        raise RuntimeError("Event loop is closed")

    case.post = closed
    case.submit()

    case.thread._thread.join(30)
    assert not case.thread._thread.is_alive()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, 250), max_size=8), st.sets(st.integers(0, 7), max_size=3))
def test_whatever_fails_every_text_ends_once_and_every_slot_is_free_again(at: set[int], left: set[int]) -> None:
    case, faults = Case(), Faults(at)
    sequencer = case.sequencer
    sequencer._metrics = faults.around(sequencer._metrics)
    sequencer._slots = faults.around(sequencer._slots, "take", "release", "hold", "hold_prompt", "compact", "fill")
    sequencer._decoder = faults.around(sequencer._decoder, "prefill", "prefill_together", "decode")
    sequencer._clock = faults.wrap(sequencer._clock)
    case.post = faults.wrap(case.posts.put)

    texts = [case.submit(max_tokens=3 + seed, seed=seed) for seed in range(8)]
    for number in left:
        case.thread.cancel(texts[number])
    for text in texts:
        case.outcome(text)
    faults.at.clear()

    fresh = case.submit(seed=9)
    assert case.outcome(fresh).reason == "length"
    assert fresh.new_tokens == network(AttentionDecoder).greedy(random_tokens(6, 9), 5)
    assert sequencer._slots.num_free == 2
    case.thread.close()


def test_an_order_that_fails_ends_its_own_text_alone() -> None:
    case = Case()
    running = case.submit(60)
    broken = case.submit()
    case.thread._orders.put((lambda _sequencer, _sequence: 1 / 0, broken))  # type: ignore[arg-type]

    assert case.outcome(broken) is not None
    assert case.outcome(running).reason == "length"
    case.thread.close()


def test_a_text_whose_token_cannot_be_chosen_fails_alone() -> None:
    case = Case()
    running, now = case.submit(30), time.monotonic()
    sampling = Sampling(max_tokens=30, ignore_eos=True)
    prompt = np.array(random_tokens(6), np.int32)
    poisonous = Sequence(prompt, sampling, case.decoder.language, now, now + 60)
    poisonous.sampler.sampling = None  # type: ignore[assignment]
    case.thread.submit(poisonous)

    assert isinstance(case.outcome(poisonous), InferenceFailed)
    assert case.outcome(running).reason == "length"
    case.thread.close()


def test_a_step_computes_with_no_more_threads_than_its_turn_has_cores() -> None:
    turns = DeviceTurns(2, monotonic)
    case = Case(Share(turns), StepCosts({2: COST, 1: COST}))
    used: set[int] = set()
    case.decoder.use = used.add  # type: ignore[method-assign, assignment]
    painter = turns.join(1, lambda: None)
    held = turns.take(painter, 1.0, math.inf)
    assert held is not None

    assert case.outcome(case.submit()).reason == "length"
    assert used == {1}

    turns.release(held)
    turns.leave(painter)
    assert case.outcome(case.submit(seed=1)).reason == "length"
    assert used == {1, 2}
    case.thread.close()
