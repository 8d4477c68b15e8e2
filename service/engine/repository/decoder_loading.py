"""Loads the graphs of a language model as a decoder: chooses kernels, verifies golden logits, measures steps."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models import golden as golden_io
from models.golden import Golden
from models.manifest import Language
from service.engine.generation.decoder import Decoder, LoadedDecoder
from service.engine.generation.step_costs import StepCost, StepCosts
from service.engine.repository.version_files import FP32, VersionFiles, VersionRejected, rejection
from service.engine.runtime.runtime import Device, available_cpus, signature_mismatch
from service.errors import InferenceFailed
from service.settings import Settings

log = logging.getLogger(__name__)

LANGUAGE_GRAPHS = ("decode", "prefill")
# Enough of each golden sequence to take every path, and few enough to load quickly.
GOLDEN_TOKENS = 40
GOLDEN_STEPS = 8
MEASURED_CHUNK = 64
# Texts are about so long, where the context allows.
MEASURED_LENGTH = 128
# Of a network of this size, every thread pays: beside what a step computes, the threads' barriers are nothing. Each
# number of threads that is tried packs the weights anew.
_LARGE_BYTES = 64 * 2**20
_MEASURED_SECONDS = 1.0
# ONNX Runtime reads this when it creates a session: its plain kernel of attention instead of the tiled one.
_PLAIN_VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_KERNEL_ROUNDS, _KERNEL_SECONDS, _KERNEL_ROWS = 9, 0.2, 8
# In int8 the kernel decides over the last bits of a text, which is to go on the same after a restart of the engine: a
# gain so small that two starts may find otherwise is none.
_KERNEL_GAIN = 0.9
_opening = threading.Lock()

Sessions = dict[str, ort.InferenceSession]


def load_decoder(files: VersionFiles, settings: Settings, device: Device) -> LoadedDecoder:
    """Open, verify and measure the two graphs of a language model.

    Raises: VersionRejected; StartupError where CUDA was requested and is not used.
    """
    language = files.manifest.language
    assert language is not None  # the manifest requires it
    if missing := [name for name in LANGUAGE_GRAPHS if name not in files.manifest.graphs]:
        raise VersionRejected(f"a language model needs the graphs {list(LANGUAGE_GRAPHS)}; {missing} are missing.")
    if "sequence" not in files.goldens:
        raise VersionRejected("golden.npz has nothing for 'sequence', which a language model needs.")
    if device != decoder_device(files, device):
        log.warning("attention in float32 has no CUDA kernel: %r runs on the CPU", files.manifest.name)
        device = decoder_device(files, device)
    counts = _thread_counts(files, settings, device)
    try:
        is_plain = _is_plain_faster(files, language, counts[0], settings, device)
        decoder = open_decoder(files, language, counts[0], settings, device, is_plain=is_plain)
        for num_threads in counts[1:]:
            decoder.add(num_threads, **_open(files, language, num_threads, device, is_plain=is_plain))
        costs = {num_threads: _measured(decoder, num_threads) for num_threads in counts}
        best = min(counts, key=lambda each: _seconds(costs[each]))
        if _seconds(costs[best]) * 1.1 > _seconds(costs[counts[0]]):
            best = counts[0]  # threads meet at barriers, which are slow on a busy machine: they must win clearly
        decoder.use(best)
        error = verify_decoder(decoder, files.goldens["sequence"], settings)
    except InferenceFailed as failure:
        raise rejection(failure) from failure
    decoder.states.release()
    ordered = {best: costs[best]} | costs
    return LoadedDecoder(decoder, StepCosts(ordered, time.monotonic), best, error, decoder.providers)


def decoder_device(files: VersionFiles, device: Device) -> Device:
    """The device that a language model runs on: the CPU where its graphs have no kernel for another one."""
    language = files.manifest.language
    has_kernels = language is None or not device.is_cuda or _has_cuda_kernels(files, language)
    return device if has_kernels else Device("cpu")


def verify_decoder(decoder: Decoder, golden: Golden, settings: Settings) -> float:
    """The largest deviation from the golden logits, of a text alone and in the largest batch.

    Raises: VersionRejected where they deviate by more than rounding does.
    """
    tolerance = settings.golden_tolerance_cuda if decoder.states.device.is_cuda else settings.golden_tolerance
    return max(_verify(decoder, golden, n, tolerance) for n in {1, decoder.num_slots})


def _has_cuda_kernels(files: VersionFiles, language: Language) -> bool:
    # Of GroupQueryAttention ONNX Runtime has CUDA kernels in FP16 and BF16 only.
    return not _is_grouped(files, "decode") or all(state.datatype != "FP32" for state in language.states)


def _is_plain_faster(
    files: VersionFiles, language: Language, num_threads: int, settings: Settings, device: Device
) -> bool:
    """Whether the plain kernel of attention is as fast as the tiled one on this machine; a user's choice is kept.

    The tiled one was measured to take from 0.74 to 1.2 times as long, by processor and length. Both graphs have the
    same, so that a prompt leaves the state that steps with its tokens would leave. Large models would be packed a
    second time for that, and take the plain one.
    """
    if _PLAIN_VARIABLE in os.environ or device.is_cuda or is_large(files):
        return True
    if not any(_is_grouped(files, name) for name in LANGUAGE_GRAPHS):
        return True
    trial = open_decoder(files, language, num_threads, settings, device)
    tiled = num_threads + 1
    trial.add(tiled, **_open(files, language, num_threads, device, is_plain=False))
    # With one thread, its own time does not count what others on the machine take.
    clock = time.thread_time if num_threads == 1 else time.monotonic
    seconds = _alternated(_typical_run(trial), lambda is_tiled: trial.use(tiled if is_tiled else num_threads), clock)
    is_plain = seconds[True] > _KERNEL_GAIN * seconds[False]
    figures = {"plain_ms": 1000 * seconds[False], "tiled_ms": 1000 * seconds[True], "is_plain": is_plain}
    log.info("the kernels of attention were compared", extra=figures)
    return is_plain


def _is_grouped(files: VersionFiles, name: str) -> bool:
    graph = files.graphs[name]
    return isinstance(graph, bytes) and b"GroupQueryAttention" in graph


def _typical_run(decoder: Decoder) -> Callable[[], object]:
    """A step and a chunk of texts as long as they are usually."""
    language, num_rows = decoder.language, min(_KERNEL_ROWS, decoder.num_slots)
    length = min(MEASURED_LENGTH, language.context // 2)
    num_tokens = min(MEASURED_CHUNK // 2, decoder.max_chunk, language.context - length)
    tokens = np.full(num_tokens, language.bos_token)
    decoder.tokens[:] = language.bos_token
    decoder.lengths[:] = length

    def run() -> None:
        decoder.decode(num_rows)
        decoder.prefill(0, tokens, length, [num_tokens - 1])

    return run


def _alternated(
    run: Callable[[], object], use: Callable[[bool], None], clock: Callable[[], float]
) -> dict[bool, float]:
    """The medians of runs of two kinds that take turns, so that both see the same machine."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    ends_at = time.monotonic() + _KERNEL_SECONDS
    for each in range(_KERNEL_ROUNDS + 1):
        for kind in seconds:
            use(kind)
            began_at = clock()
            run()
            seconds[kind].append(clock() - began_at)
        if each > 1 and time.monotonic() > ends_at:
            break
    return {kind: median(each[1:]) for kind, each in seconds.items()}


@contextlib.contextmanager
def _attention_kernel(*, is_plain: bool) -> Iterator[None]:
    """Have sessions created with one of the kernels of attention, unless the user has said which."""
    with _opening:
        is_given = _PLAIN_VARIABLE in os.environ
        os.environ.setdefault(_PLAIN_VARIABLE, str(int(is_plain)))
        try:
            yield
        finally:
            if not is_given:
                del os.environ[_PLAIN_VARIABLE]


def _thread_counts(files: VersionFiles, settings: Settings, device: Device) -> list[int]:
    if settings.threads or device.is_cuda:
        return [settings.threads or 1]
    if is_large(files):
        return [available_cpus()]
    return sorted({1, available_cpus()})


def _measured(decoder: Decoder, num_threads: int) -> StepCost:
    """What steps and chunks take with a number of threads."""
    decoder.use(num_threads)
    language, sizes = decoder.language, _sizes(decoder.num_slots)
    length, num_tokens = min(MEASURED_LENGTH, language.context // 2), min(MEASURED_CHUNK, decoder.max_chunk)
    tokens = np.full(num_tokens, language.bos_token)
    token_seconds = _best_seconds(lambda: decoder.prefill(0, tokens, 0, [num_tokens - 1])) / num_tokens
    decoder.tokens[:] = language.bos_token
    decoder.lengths[:] = length
    seconds = {size: _best_seconds(lambda: decoder.decode(size)) for size in sizes}  # noqa: B023 (called at once)
    per_token, beyond = 0.0, language.context - 1 - length
    if beyond and not decoder.is_recurrent:  # whose state is as large at any length
        size = sizes[len(sizes) // 2]
        decoder.lengths[:] = length + beyond
        further_seconds = max(_best_seconds(lambda: decoder.decode(size)) - seconds[size], 0.0)
        per_token = further_seconds / (size * beyond)
    return StepCost(seconds, token_seconds, length=length, cached_token_seconds=per_token)


def open_decoder(
    files: VersionFiles,
    language: Language,
    num_threads: int,
    settings: Settings,
    device: Device,
    *,
    is_plain: bool = True,
) -> Decoder:
    """Open the graphs of a language model, with the plain kernel of attention or the tiled one.

    Raises: VersionRejected where they are not what the manifest says; InferenceFailed.
    """
    return Decoder(
        **_open(files, language, num_threads, device, is_plain=is_plain),
        language=language,
        num_slots=settings.max_sequences,
        max_chunk=settings.max_step_tokens,
        device=device,
        buckets=_sizes(settings.max_sequences) if device.is_cuda else (),
        is_rounded=files.precision != FP32,
    )


def _open(files: VersionFiles, language: Language, num_threads: int, device: Device, *, is_plain: bool) -> Sessions:
    sessions = {}
    for name in LANGUAGE_GRAPHS:
        # A prompt's operators take so long that threads may sleep between them; those of a step do not.
        spins = num_threads > 1 and name == "decode"
        with _attention_kernel(is_plain=is_plain):
            session = sessions[name] = files.open(name, device, num_threads, spins=spins)
        if mismatch := signature_mismatch(files.manifest.graphs[name], session) or _misfit(files, name, language):
            raise VersionRejected(f"{name}: {mismatch}")
    return sessions


def is_large(files: VersionFiles) -> bool:
    """Whether a copy of the weights is much memory."""
    return sum(len(weights.content) for weights in files.weights.values()) >= _LARGE_BYTES


def _sizes(num_slots: int) -> tuple[int, ...]:
    powers = (2**exponent for exponent in range(num_slots.bit_length()))
    return tuple(sorted({size for size in powers if size < num_slots} | {num_slots}))


def _seconds(cost: StepCost) -> float:
    # One text alone, a batch of medium size and a chunk of a prompt, in about the proportions that a service sees.
    sizes = list(cost.decode_seconds)
    return cost.decode(1) + cost.decode(sizes[len(sizes) // 2]) + cost.prefill(MEASURED_CHUNK) / 2


def _best_seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds) < _MEASURED_SECONDS:
        started = time.monotonic()
        run()
        seconds.append(time.monotonic() - started)
    return min(seconds[1:] or seconds)


def _misfit(files: VersionFiles, name: str, language: Language) -> str | None:
    """Which of the inputs and outputs that the engine binds a graph lacks; None where it has all."""
    graph = files.manifest.graphs[name]
    inputs, outputs = ({spec.name: spec for spec in side} for side in (graph.inputs, graph.outputs))
    own = {"token"} if name == "decode" else {"tokens", "wanted"}
    states = {spec.name for spec in language.states}
    if not own | states <= set(inputs) <= own | states | {"length"}:
        return f"the inputs are {sorted(inputs)}; {sorted(own | states)} are needed, 'length' is allowed."
    if not {"logits", *(f"next_{state}" for state in states)} <= set(outputs):
        return f"the outputs are {sorted(outputs)}; 'logits' and the next state of each of {sorted(states)} are needed."
    for state in language.states:
        if inputs[state.name].datatype != state.datatype or inputs[state.name].row_shape != state.shape:
            return f"the state {state.name!r} is not {state.datatype} {list(state.shape)} as the manifest says."
    if outputs["logits"].shape[-1] != language.vocab_size:
        return f"the logits are of {outputs['logits'].shape[-1]} tokens, the vocabulary has {language.vocab_size}."
    return None


def _verify(decoder: Decoder, golden: Golden, num_rows: int, tolerance: float) -> float:
    """The largest deviation from the golden logits, with `num_rows` rows of differing lengths.

    Raises: VersionRejected where it exceeds the tolerance.
    """
    if set(golden.inputs) != {"tokens"} or set(golden.outputs) != {"logits"}:
        raise VersionRejected("golden.npz does not name 'tokens' and 'logits' for 'sequence'.")
    rows = golden.repeated(num_rows)
    num_tokens = min(rows.inputs["tokens"].shape[1], decoder.language.context, GOLDEN_TOKENS)
    if num_tokens < 2:
        raise VersionRejected(f"golden.npz has {num_tokens} tokens for 'sequence'; at least two are needed.")
    tokens, logits = rows.inputs["tokens"][:, :num_tokens], rows.outputs["logits"][:, :num_tokens]
    found = _deviation(decoder, tokens, logits)
    if found.largest > tolerance and not (found.largest < math.inf and found.root_mean_square <= _rounding(golden)):
        raise VersionRejected(
            f"the logits deviate from their golden values by {found.largest:.3g} at batch {num_rows}; "
            f"at most {tolerance:.3g} is allowed."
        )
    return found.largest


def _rounding(golden: Golden) -> float:
    """How much the golden logits of a variant deviate from those of fp32, as a root mean square; 0 for fp32 itself.

    Where an activation lies between two levels, its last bit decides which it takes, and processors differ in that:
    within what rounding costs, the score is the same.
    """
    if FP32 not in golden.variants:
        return 0.0
    difference = golden.outputs["logits"].astype(np.float64) - golden.variants[FP32]["logits"]
    return float(np.sqrt(np.square(difference).mean()))


@dataclass(slots=True)
class _Deviation:
    """How much logits deviate from what they should be."""

    largest: float = 0.0
    squares: float = 0.0
    num_elements: int = 0

    def add(self, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> None:
        """Take in some more."""
        self.largest = max(self.largest, golden_io.largest_error(expected, actual))
        if self.largest < math.inf:
            self.squares += float(np.square(expected.astype(np.float64) - actual).sum())
            self.num_elements += expected.size

    @property
    def root_mean_square(self) -> float:
        """The root of the mean square."""
        return math.sqrt(self.squares / max(self.num_elements, 1))


def _deviation(decoder: Decoder, tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> _Deviation:
    num_rows, num_tokens = tokens.shape
    most = min(GOLDEN_STEPS, num_tokens - 1)
    # Rows with more steps come first, so that the remaining ones are always the first.
    steps = sorted((most - row % most for row in range(num_rows)), reverse=True)
    starts = [num_tokens - count for count in steps]
    found = _Deviation()
    for row, end in enumerate(starts):
        for first in range(0, end, chunk := max(min(end // 2 + 1, decoder.max_chunk), 1)):
            part = tokens[row, first : min(first + chunk, end)]
            actual = decoder.prefill(row, part, first, list(range(len(part))))
            found.add(logits[row, first : first + len(part)], actual)
    for step in range(most):
        count = sum(num_steps > step for num_steps in steps)
        for row in range(count):
            decoder.tokens[row] = tokens[row, starts[row] + step]
            decoder.lengths[row] = starts[row] + step
        expected = np.stack([logits[row, starts[row] + step] for row in range(count)])
        found.add(expected, decoder.decode(count))
    return found
