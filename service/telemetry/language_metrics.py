"""The metrics of one language model, with their labels bound once, and its counts since the start.

A step updates each of them at most once, however many texts it continues.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Protocol

from service.telemetry.instruments import Counter
from service.telemetry.metrics import Metrics

RATE_SECONDS = 10.0


class Text(Protocol):
    """A text as far as it is measured: its arrival, and the time of its latest token (0 for none)."""

    arrival: float
    last_token_at: float


class Rate:
    """Events per second over the last ten seconds."""

    def __init__(self) -> None:
        self._counts: deque[list[float]] = deque()  # [second, count]
        self._first_at: float | None = None

    def add(self, count: int, now: float) -> None:
        """Count events."""
        if self._first_at is None:
            self._first_at = now
        if self._counts and self._counts[-1][0] == int(now):
            self._counts[-1][1] += count
        else:
            self._counts.append([int(now), count])
            self._forget(now)

    def per_second(self, now: float) -> float:
        """The rate until now."""
        if self._first_at is None:
            return 0.0
        self._forget(now)
        seconds = min(max(now - self._first_at, 1.0), RATE_SECONDS)
        return sum(count for _, count in self._counts) / seconds

    def _forget(self, now: float) -> None:
        while self._counts and self._counts[0][0] <= now - RATE_SECONDS:
            self._counts.popleft()


class LanguageMetrics:
    """The metrics and the counts of one language model."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        labels = (model, version)
        self._track, self._timeline = (model, version, "texts"), metrics.timeline
        self._first_token = metrics.time_to_first_token_seconds.labels(*labels)
        self._inter_token = metrics.inter_token_seconds.labels(*labels)
        self._step_seconds = metrics.step_seconds.labels(*labels)
        self._step_sequences = metrics.step_sequences.labels(*labels)
        self._step_prefill = metrics.step_prefill_tokens.labels(*labels)
        self._mask_seconds = metrics.mask_seconds.labels(*labels)
        self._mask_wait_seconds = metrics.mask_wait_seconds.labels(*labels)
        self.observe_grammar = metrics.grammar_seconds.labels(*labels).observe
        self._queue_seconds = metrics.queue_seconds.labels(*labels, "decode")
        self._prompt_tokens = metrics.prompt_tokens.labels(*labels)
        self._generated = metrics.generated_tokens.labels(*labels)
        self._prefix_queries = metrics.prefix_query_tokens.labels(*labels)
        self._prefix_hits = metrics.prefix_hit_tokens.labels(*labels)
        self._running = metrics.sequences_running.labels(*labels)
        self._waiting = metrics.sequences_waiting.labels(*labels)
        self._used = metrics.cache_used_ratio.labels(*labels)
        self._finished: dict[str, Counter] = {}
        self._bind_failure: Callable[[str], Counter] = partial(metrics.failures.labels, *labels, "decode")
        self._bind_finished: Callable[[str], Counter] = partial(metrics.finished.labels, *labels)
        self._gauged: tuple[int, int, float] | None = None
        self._rate = Rate()
        self.ends: Tally[str] = Tally()
        self.num_running = self.num_waiting = 0
        self.num_steps = self.num_step_sequences = 0
        self.num_prompt_tokens = self.num_hit_tokens = self.num_generated_tokens = 0

    def observe_run(self, kind: str, size: int, started_at: float) -> None:
        """Keep on the device's timeline what the decoder has just computed."""
        self._timeline.add((self._track, 0, kind, size, started_at, monotonic(), ""))

    def observe_step(self, seconds: float, num_sequences: int, num_prefill_tokens: int) -> None:
        """Count one step."""
        self._step_seconds.observe(seconds)
        if num_sequences:
            self._step_sequences.observe(num_sequences)
            self.num_steps += 1
            self.num_step_sequences += num_sequences
        if num_prefill_tokens:
            self._step_prefill.observe(num_prefill_tokens)

    def observe_masks(self, seconds: float, waited_seconds: float) -> None:
        """Count the masks of a step: the time to compute them, and how long the step waited for them."""
        self._mask_seconds.observe(seconds)
        self._mask_wait_seconds.inc(waited_seconds)

    def observe_tokens(self, texts: Iterable[Text], now: float) -> None:
        """Count a token of each text, with the time since its last one or since its arrival."""
        since: Tally[float] = Tally()
        count = 0
        for text in texts:
            count += 1
            if text.last_token_at:
                since[text.last_token_at] += 1
            else:
                self._first_token.observe(now - text.arrival)
            text.last_token_at = now
        for last, number in since.items():
            self._inter_token.observe_many(now - last, number)
        self._generated.inc(count)
        self._rate.add(count, now)
        self.num_generated_tokens += count

    def count_prompt(self, num_tokens: int, num_reused: int, queue_seconds: float) -> None:
        """Count a prompt that was given a slot, and how long it waited for it."""
        self._queue_seconds.observe(queue_seconds)
        self._prompt_tokens.inc(num_tokens)
        self._prefix_queries.inc(num_tokens)
        self._prefix_hits.inc(num_reused)
        self.num_prompt_tokens += num_tokens
        self.num_hit_tokens += num_reused

    def count_end(self, reason: str) -> None:
        """Count a text that ended: `stop`, `length` or the code of an error."""
        if reason not in self._finished:
            self._finished[reason] = self._bind_finished(reason)
        self._finished[reason].inc()
        if reason not in ("stop", "length"):
            self._bind_failure(reason).inc()
        self.ends[reason] += 1

    def gauge(self, num_running: int, num_waiting: int, used_ratio: float) -> None:
        """Set the gauges of the current load."""
        self.num_running, self.num_waiting = num_running, num_waiting
        if self._gauged is None or self._gauged[:2] != (num_running, num_waiting):
            self._running.set(num_running)
            self._waiting.set(num_waiting)
        self._used.set(used_ratio)
        self._gauged = (num_running, num_waiting, used_ratio)

    def statistics(self, now: float) -> dict[str, float]:
        """The counts since the engine started, and the rate of the last seconds."""
        return {
            "running": self.num_running,
            "waiting": self.num_waiting,
            "finished": self.ends["stop"] + self.ends["length"],
            "failures": self.ends.total() - self.ends["stop"] - self.ends["length"],
            "prompt_tokens": self.num_prompt_tokens,
            "generated_tokens": self.num_generated_tokens,
            "tokens_per_second": round(self._rate.per_second(now), 1),
            "prefix_hit_ratio": round(self.num_hit_tokens / max(self.num_prompt_tokens, 1), 3),
            "mean_step_sequences": round(self.num_step_sequences / max(self.num_steps, 1), 3),
        }
