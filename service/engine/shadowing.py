"""Shadows: copies of answered requests, computed by another version of the model too, and the answers compared.

A copy is made after its answer has left. It waits until the whole engine has been idle for as long as it will take, as
an engine that answers one caller after the other is idle for moments only, and then the next caller would share the
processors with it. Copies are bounded in number and bytes; what exceeds that is dropped. One at a time is computed,
behind all other requests of that version. Nothing that goes wrong here reaches a caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import from_bf16
from service.engine.batching.response_cache import CachedAnswer
from service.engine.repository.live_repository import LiveRepository
from service.engine.repository.version import Version
from service.engine.transport.messages import InferTarget, Quantiles, ShadowReport
from service.engine.transport.strings import Payload, unpack_strings
from service.errors import ServiceError
from service.settings import Settings
from service.splits import Split, Turns
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MAX_PENDING = 1024
MAX_PENDING_BYTES = 64 * 2**20
POLL_SECONDS = 0.002
MAX_TIMES = 4096
CLASSIFIER = "image-classification"
PROBABILITIES = "probabilities"

Labels = Sequence[str]
Booleans = NDArray[np.bool_]
OnAnswer = Callable[[CachedAnswer | Exception, float], None]
Compute = Callable[[Version, InferTarget, int, bytes, OnAnswer], None]


# --- comparing two answers ---


@dataclass(frozen=True, slots=True)
class Rule:
    """When two answers of `num_rows` rows agree: by the likeliest of the `labels` of both, or else within `tolerance`.

    `bf16` are the outputs that come as the bits of BF16.
    """

    num_rows: int
    tolerance: float
    labels: tuple[Labels, Labels] | None = None
    bf16: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many rows of two answers agree, and how far their numbers are apart at most."""

    num_rows: int
    num_agreeing: int
    max_abs_difference: float


def compare(rule: Rule, default: CachedAnswer, shadow: CachedAnswer) -> Verdict:
    """Compare the answers of two versions to the same request."""
    agreeing: Booleans = np.ones(rule.num_rows, np.bool_)
    largest, actual = 0.0, dict(_tensors(shadow, rule.bf16))
    for name, expected in _tensors(default, rule.bf16):
        if rule.labels is not None and name != PROBABILITIES:
            continue  # an embedding is another in every training
        if rule.labels is not None:
            agreeing &= _same_label(expected, actual[name], rule.labels)
        else:
            agreeing &= _close_rows(expected, actual[name], rule)
        largest = max(largest, _difference(expected, actual[name]))
    return Verdict(rule.num_rows, int(agreeing.sum()), largest)


def _tensors(answer: CachedAnswer, bf16: frozenset[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    for (name, dtype, shape), part in zip(answer.outputs, answer.parts, strict=True):
        if dtype == "|O":
            texts = np.empty(prod(shape), object)
            texts[:] = unpack_strings(part, prod(shape))[0]
            yield name, texts.reshape(shape)
            continue
        array: NDArray[Any] = np.frombuffer(part, dtype).reshape(shape)
        yield name, from_bf16(array) if name in bf16 else array


def _same_label(expected: NDArray[Any], actual: NDArray[Any], labels: tuple[Labels, Labels]) -> Booleans:
    pairs = zip(expected.argmax(-1).reshape(-1), actual.argmax(-1).reshape(-1), strict=True)
    return np.array([labels[0][a] == labels[1][b] for a, b in pairs], np.bool_)


def _close_rows(expected: NDArray[Any], actual: NDArray[Any], rule: Rule) -> Booleans:
    if expected.shape != actual.shape or expected.dtype.hasobject != actual.dtype.hasobject:
        return np.zeros(rule.num_rows, np.bool_)
    close: Booleans = expected == actual
    if not expected.dtype.hasobject:
        # A value between two levels of 8 bits may be rounded either way.
        level = 1.0 if expected.dtype.kind in "iu" and expected.dtype.itemsize == 1 else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            a, b = expected.astype(np.float64), actual.astype(np.float64)
            close = close | np.isclose(b, a, rule.tolerance, max(rule.tolerance, level), equal_nan=True)
    if close.ndim and len(close) == rule.num_rows:
        return np.asarray(close.all(axis=tuple(range(1, close.ndim))))
    return np.full(rule.num_rows, close.all())  # the graph was given the rows as a whole


def _difference(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The largest difference of the numbers that are finite in both; 0 where they cannot be subtracted."""
    if expected.shape != actual.shape or expected.dtype.hasobject or actual.dtype.hasobject:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    return float(np.max(apart, initial=0.0, where=np.isfinite(apart)))


# --- counting ---


class Tally:
    """What is known of a version against one default: counts, and the latest times of both."""

    def __init__(self, split: Split, against: str, metrics: Metrics) -> None:
        self._report = ShadowReport(split.version, against, float(split.share))
        self._metrics = metrics
        self._labels = (split.model, split.version)
        self._num_requests = self._num_rows = self._num_agreeing = self._num_dropped = self._num_failed = 0
        self._largest = 0.0
        self._last_failure = ""
        self._seconds = deque[tuple[float, float]](maxlen=MAX_TIMES)

    @property
    def latest_seconds(self) -> float:
        """How long the shadow took for the latest request."""
        return self._seconds[-1][1] if self._seconds else 0.0

    def add(self, verdict: Verdict, default_seconds: float, shadow_seconds: float) -> None:
        """Count a request that both have answered."""
        self._num_requests += 1
        self._num_rows += verdict.num_rows
        self._num_agreeing += verdict.num_agreeing
        self._largest = max(self._largest, verdict.max_abs_difference)
        self._seconds.append((default_seconds, shadow_seconds))
        self._count("agreed" if verdict.num_agreeing == verdict.num_rows else "disagreed")
        self._metrics.shadow_rows.labels(*self._labels).inc(verdict.num_rows)
        self._metrics.shadow_agreeing_rows.labels(*self._labels).inc(verdict.num_agreeing)
        self._metrics.shadow_max_abs_difference.labels(*self._labels).set(self._largest)

    def drop(self) -> None:
        """Count a copy that was not computed."""
        self._num_dropped += 1
        self._count("dropped")

    def fail(self, reason: str) -> None:
        """Count a copy that the shadow could not answer."""
        self._num_failed += 1
        self._last_failure = reason
        self._count("failed")

    def _count(self, outcome: str) -> None:
        self._metrics.shadow_requests.labels(*self._labels, outcome).inc()

    def report(self) -> ShadowReport:
        """The counts so far."""
        known = self._report
        return ShadowReport(
            known.version,
            known.against,
            known.share,
            self._num_requests,
            self._num_rows,
            self._num_agreeing / self._num_rows if self._num_rows else None,
            self._largest,
            self._num_dropped,
            self._num_failed,
            self._last_failure,
            _quantiles([default for default, _ in self._seconds]),
            _quantiles([shadow for _, shadow in self._seconds]),
        )


def _quantiles(seconds: list[float]) -> Quantiles | None:
    ranked = sorted(seconds)
    last = len(ranked) - 1
    return Quantiles(ranked[ceil(0.5 * last)], ranked[ceil(0.95 * last)]) if ranked else None


class Comparison:
    """A version that shadows the default; what is counted begins anew whenever one of the two is another."""

    def __init__(self, split: Split, metrics: Metrics) -> None:
        self.split = split
        self.turns = Turns(split.share)
        self._metrics = metrics
        self._of: tuple[Any, ...] = ()
        self._tally = Tally(split, "", metrics)

    def tally(self, default: Version, shadow: Version) -> Tally:
        """What is known of these two."""
        now = (default.status.version, default.fingerprint, shadow.fingerprint)
        if now != self._of:
            self._of, self._tally = now, Tally(self.split, default.status.version, self._metrics)
        return self._tally


# --- copying and computing ---


@dataclass(frozen=True, slots=True)
class _Copy:
    tally: Tally
    shadow: Version
    rule: Rule
    target: InferTarget
    payload: bytes
    answer: CachedAnswer
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Its memory."""
        return len(self.payload) + self.answer.num_bytes


class Shadowing:
    """Decides which requests are copied, keeps the copies, and has them computed while the engine is idle.

    `compute` answers a request with a version through a callback.
    """

    def __init__(self, settings: Settings, repository: LiveRepository, compute: Compute, metrics: Metrics) -> None:
        self._loop = asyncio.get_running_loop()
        self._tolerance = settings.shadow_tolerance
        self._repository = repository
        self._compute = compute
        self._comparisons: dict[str, list[Comparison]] = {}
        for split in settings.shadow_splits:
            self._comparisons.setdefault(split.model, []).append(Comparison(split, metrics))
        self._pending: deque[_Copy] = deque()
        self._pending_bytes = 0
        self._is_computing = False
        self._busy_at = 0.0  # when a request last came or was seen
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, "shadows")

    def reports(self, default: Version) -> list[ShadowReport]:
        """What is known of the versions that are compared with a default."""
        comparisons = self._comparisons.get(default.status.name, ())
        pairs = [(each, shadow) for each in comparisons if (shadow := self._shadow(each.split, default)) is not None]
        return [each.tally(default, shadow).report() for each, shadow in pairs]

    @property
    def is_on(self) -> bool:
        """Whether any model has a shadow."""
        return bool(self._comparisons)

    def due(self, version: Version, target: InferTarget) -> list[Comparison]:
        """The comparisons that take a request; to be called once for each that is computed, of any model."""
        self._busy_at = self._loop.time()
        comparisons = self._comparisons.get(target.model)
        if not comparisons or self._repository.defaults.of(target.model) is not version:
            return []
        if _is_classifier(version, target.graph) and PROBABILITIES not in target.outputs:
            return []
        return [each for each in comparisons if self._shadow(each.split, version) is not None and each.turns.take()]

    def keep(
        self,
        comparisons: Sequence[Comparison],
        version: Version,
        target: InferTarget,
        num_rows: int,
        payload: Payload,
        answer: CachedAnswer,
        seconds: float,
    ) -> None:
        """Copy a request that has been answered; to be called once the answer has left."""
        for each in comparisons:
            if (shadow := self._shadow(each.split, version)) is None:
                continue
            tally, rule = each.tally(version, shadow), self._rule(version, shadow, target, num_rows)
            num_bytes = self._pending_bytes + len(payload) + answer.num_bytes
            if len(self._pending) >= MAX_PENDING or num_bytes > MAX_PENDING_BYTES:
                tally.drop()
                continue
            copy = _Copy(tally, shadow, rule, target, bytes(payload), answer, seconds)
            self._pending.append(copy)
            self._pending_bytes += copy.num_bytes
        self._go_on()

    def _shadow(self, split: Split, default: Version) -> Version | None:
        """The version that shadows a default, if it is ready and another."""
        shadow = self._repository.versions.get((split.model, split.version))
        return shadow if shadow is not None and shadow.status.state == "ready" and shadow is not default else None

    def _rule(self, default: Version, shadow: Version, target: InferTarget, num_rows: int) -> Rule:
        graph = default.graphs[target.graph].graph
        bf16 = frozenset(spec.name for spec in graph.outputs if spec.datatype == "BF16")
        labels = None
        if _is_classifier(default, target.graph) and _is_classifier(shadow, target.graph):
            labels = default.status.manifest["labels"], shadow.status.manifest["labels"]
        return Rule(num_rows, self._tolerance, labels, bf16)

    def _go_on(self) -> None:
        """Compute the next copy if the engine has been idle for long enough; look again later otherwise."""
        while self._pending and not self._is_computing and self._timer is None:
            if wait_seconds := self._wait_seconds(self._pending[0]):
                self._timer = self._loop.call_later(wait_seconds, self._look_again)
                return
            copy = self._pending.popleft()
            self._pending_bytes -= copy.num_bytes
            if copy.shadow.is_loaded:
                self._start(copy)
            else:
                copy.tally.drop()

    def _wait_seconds(self, copy: _Copy) -> float:
        now = self._loop.time()
        if not all(version.is_idle for version in self._repository.versions.values()):
            self._busy_at = now
        return wait_seconds(now, self._busy_at, max(copy.seconds, copy.tally.latest_seconds))

    def _look_again(self) -> None:
        self._timer = None
        self._go_on()

    def _start(self, copy: _Copy) -> None:
        self._is_computing = True

        def on_answer(answer: CachedAnswer | Exception, seconds: float) -> None:
            if isinstance(answer, Exception):
                self._end(copy, answer, seconds)
                return
            comparing = self._loop.run_in_executor(self._thread, compare, copy.rule, copy.answer, answer)
            comparing.add_done_callback(lambda done: self._end(copy, done.exception() or done.result(), seconds))

        try:
            self._compute(copy.shadow, copy.target, copy.rule.num_rows, copy.payload, on_answer)
        except Exception as error:
            self._end(copy, error, 0.0)

    def _end(self, copy: _Copy, outcome: Verdict | BaseException, seconds: float) -> None:
        self._is_computing = False
        if isinstance(outcome, Verdict):
            copy.tally.add(outcome, copy.seconds, seconds)
        elif isinstance(outcome, ServiceError):
            copy.tally.fail(outcome.message)
        else:
            log.error("a shadow failed unexpectedly", exc_info=outcome)
            copy.tally.fail("The comparison failed unexpectedly; the log says why.")
        self._loop.call_soon(self._go_on)


def wait_seconds(now: float, busy_at: float, expected_seconds: float) -> float:
    """How long to wait until the engine has been idle for as long as a copy will take; 0 where it has."""
    remaining_seconds = busy_at + expected_seconds - now
    return max(remaining_seconds, POLL_SECONDS) if remaining_seconds > 0 else 0.0


def _is_classifier(version: Version, graph: str) -> bool:
    served = version.graphs.get(graph)
    outputs = {spec.name for spec in served.graph.outputs} if served is not None else set()
    return version.status.manifest.get("task") == CLASSIFIER and PROBABILITIES in outputs
