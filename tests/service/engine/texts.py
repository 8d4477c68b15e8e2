"""A sequencer on a small real language model, with a clock that tests set and all events kept."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from service.engine.generation.decoder import Decoder
from service.engine.generation.sequencer import Sequencer
from service.engine.generation.sequences import Sequence, StepEvents
from service.engine.generation.step_costs import StepCost, StepCosts
from service.engine.repository.version_files import VersionFiles, read_version
from service.engine.runtime.runtime import Device
from service.engine.transport.messages import ANYONE, Caller, Finished, PromptScores, Sampling, Token
from service.errors import ServiceError
from service.telemetry.language_metrics import LanguageMetrics
from service.telemetry.metrics import Metrics
from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder, TinyDecoder

COST = StepCost({1: 0.001, 32: 0.002}, 0.0005)


@cache
def network(kind: type[TinyDecoder]) -> TinyDecoder:
    return kind()


@cache
def files(kind: type[TinyDecoder]) -> VersionFiles:
    with TemporaryDirectory() as folder:
        return read_version(network(kind).write(Path(folder)))


def decoder(
    kind: type[TinyDecoder] = AttentionDecoder,
    num_slots: int = 4,
    max_chunk: int = 256,
    buckets: tuple[int, ...] = (),
    can_copy: bool = True,
) -> Decoder:
    version, cpu = files(kind), Device("cpu")
    language = network(kind).language
    decode, prefill = (version.open(name, cpu, 1) for name in ("decode", "prefill"))
    made = Decoder(decode, prefill, language, num_slots, max_chunk, cpu, buckets)
    made.states.can_copy = can_copy
    return made


class Texts:
    """Submits prompts to a sequencer, steps it, and keeps what it posts."""

    def __init__(
        self,
        decoder: Any,
        max_step_tokens: int = 256,
        max_waiting: int = 64,
        objective_seconds: float | None = None,
    ) -> None:
        self.now = 100.0
        self.decoder = decoder
        self.metrics = LanguageMetrics(Metrics(CollectorRegistry()), "tiny", "1")
        self.posts: list[StepEvents] = []
        self.tokens: dict[Sequence, list[int]] = {}
        self.choices: dict[Sequence, list[Token]] = {}
        self.scores: dict[Sequence, PromptScores] = {}
        self.outcomes: dict[Sequence, Finished | ServiceError] = {}
        self.sequencer = Sequencer(
            decoder,
            StepCosts({1: COST}),
            max_step_tokens=max_step_tokens,
            max_waiting=max_waiting,
            clock=lambda: self.now,
            post=self._keep,
            metrics=self.metrics,
            objective_seconds=objective_seconds,
        )

    def _keep(self, events: StepEvents) -> None:
        self.posts.append(events)
        self.scores |= dict(events.scored)
        for sequence, choice in events.sampled:
            assert sequence not in self.outcomes, "a token came after the end"
            self.tokens[sequence].append(choice.token)
            self.choices[sequence].append(choice)
        for sequence, outcome in events.ended:
            assert sequence not in self.outcomes, "a text ended twice"
            self.outcomes[sequence] = outcome

    def submit(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        timeout_seconds: float = 60.0,
        caller: Caller = ANYONE,
        priority: int = 0,
        request: int = 0,
        **sampling: Any,
    ) -> Sequence:
        parameters = Sampling(max_tokens=max_tokens, **({"temperature": 0.0} | sampling))
        language = self.decoder.language
        deadline = self.now + timeout_seconds
        sequence = Sequence(np.array(prompt, np.int32), parameters, language, self.now, deadline, None, caller)
        sequence.priority, sequence.request = priority, request
        self.tokens[sequence], self.choices[sequence] = [], []
        self.sequencer.submit(sequence)
        return sequence

    def step(self, count: int = 1, seconds: float = 0.001) -> None:
        for _ in range(count):
            self.sequencer.step()
            self.now += seconds

    def run(self, max_steps: int = 2000) -> None:
        """Step until all is done."""
        for _ in range(max_steps):
            if self.sequencer.is_idle:
                return
            self.step()
        raise AssertionError("The texts do not end.")

    def complete(self, prompt: list[int], max_tokens: int = 8, **sampling: Any) -> list[int]:
        """Continue one prompt to its end."""
        sequence = self.submit(prompt, max_tokens, **sampling)
        self.run()
        return self.tokens[sequence]


KINDS: tuple[type[TinyDecoder], ...] = (AttentionDecoder, RecurrentDecoder)
