"""Loads the graphs of a language model as a decoder: chooses threads, verifies golden logits, measures steps."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import golden as golden_io
from models.golden import Golden
from models.manifest import Language
from service.engine.generation.decoder import Decoder, LoadedDecoder
from service.engine.generation.sequencing import StepCost
from service.engine.repository.ceilings import check_slots
from service.engine.repository.version_files import FP32, VersionFiles, VersionRejected, rejection
from service.engine.runtime.runtime import Device, available_cpus, signature_mismatch
from service.errors import InferenceFailed
from service.settings import Settings

log = logging.getLogger(__name__)

LANGUAGE_GRAPHS = ("decode", "prefill")
# Enough of each golden sequence to take every path, and few enough to load quickly.
GOLDEN_TOKENS = 40
GOLDEN_STEPS = 8
MEASURED_CHUNK = 32
# Of a network of this size, every thread pays: beside what a step computes, the threads' barriers are nothing. Each
# number of threads that is tried packs the weights anew.
_LARGE_BYTES = 64 * 2**20
_MEASURED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A decoder with a number of threads, measured."""

    num_threads: int
    decoder: Decoder
    decode_seconds: dict[int, float]
    chunk_seconds: float


def load_decoder(files: VersionFiles, settings: Settings, device: Device) -> LoadedDecoder:
    """Open, verify and measure the two graphs of a language model.

    Raises: VersionRejected; StartupError where CUDA was requested and is not used.
    """
    language = files.manifest.language
    assert language is not None  # the manifest requires it
    if missing := [name for name in LANGUAGE_GRAPHS if name not in files.manifest.graphs]:
        raise VersionRejected(f"a language model needs the graphs {list(LANGUAGE_GRAPHS)}; {missing} are missing.")
    check_slots(language, settings.max_sequences)
    if "sequence" not in files.goldens:
        raise VersionRejected("golden.npz has nothing for 'sequence', which a language model needs.")
    if device != decoder_device(files, device):
        log.warning("attention in float32 has no CUDA kernel: %r runs on the CPU", files.manifest.name)
        device = decoder_device(files, device)
    try:
        candidates = [_measured(files, language, n, settings, device) for n in _thread_counts(files, settings, device)]
        best = min(candidates, key=_seconds)
        if _seconds(best) * 1.1 > _seconds(candidates[0]):
            best = candidates[0]  # threads meet at barriers, which are slow on a busy machine: they must win clearly
        error = verify_decoder(best.decoder, files.goldens["sequence"], settings)
    except InferenceFailed as failure:
        raise rejection(failure) from failure
    best.decoder.states.release()
    cost = StepCost(best.decode_seconds, best.chunk_seconds / min(MEASURED_CHUNK, best.decoder.max_chunk))
    return LoadedDecoder(best.decoder, cost, best.num_threads, error, best.decoder.providers)


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
    graph = files.graphs["decode"]
    is_grouped = isinstance(graph, bytes) and b"GroupQueryAttention" in graph
    return not is_grouped or all(state.datatype != "FP32" for state in language.states)


def _choose_attention_kernel(device: Device) -> None:
    # Measured on a CPU, caches of up to 512 tokens: the plain kernel is 5 to 20 % faster than the tiled one in decoding
    # and in prompts. ONNX Runtime reads this when it creates a session; a user's own setting is kept.
    if not device.is_cuda:
        os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")


def _thread_counts(files: VersionFiles, settings: Settings, device: Device) -> list[int]:
    if settings.threads or device.is_cuda:
        return [settings.threads or 1]
    if is_large(files):
        return [available_cpus()]
    return sorted({1, available_cpus()})


def _measured(
    files: VersionFiles, language: Language, num_threads: int, settings: Settings, device: Device
) -> _Candidate:
    sizes = _sizes(settings.max_sequences)
    decoder = open_decoder(files, language, num_threads, settings, device)
    num_tokens = min(MEASURED_CHUNK, decoder.max_chunk)
    tokens = np.full(num_tokens, language.bos_token)
    chunk_seconds = _best_seconds(lambda: decoder.prefill(0, tokens, 0, [num_tokens - 1]))
    decoder.tokens[:] = language.bos_token
    decoder.lengths[:] = min(num_tokens, language.context - 1)
    seconds = {size: _best_seconds(lambda: decoder.decode(size)) for size in sizes}  # noqa: B023 (called at once)
    return _Candidate(num_threads, decoder, seconds, chunk_seconds)


def open_decoder(
    files: VersionFiles, language: Language, num_threads: int, settings: Settings, device: Device
) -> Decoder:
    """Open the graphs of a language model.

    Raises: VersionRejected where they are not what the manifest says; InferenceFailed.
    """
    _choose_attention_kernel(device)
    sessions = {name: files.open(name, device, num_threads, spins=num_threads > 1) for name in LANGUAGE_GRAPHS}
    for name, session in sessions.items():
        if mismatch := signature_mismatch(files.manifest.graphs[name], session) or _misfit(files, name, language):
            raise VersionRejected(f"{name}: {mismatch}")
    return Decoder(
        sessions["decode"],
        sessions["prefill"],
        language,
        settings.max_sequences,
        settings.max_step_tokens,
        device,
        _sizes(settings.max_sequences) if device.is_cuda else (),
        is_rounded=files.precision != FP32,
    )


def is_large(files: VersionFiles) -> bool:
    """Whether a copy of the weights is much memory."""
    return sum(len(weights.content) for weights in files.weights.values()) >= _LARGE_BYTES


def _sizes(num_slots: int) -> tuple[int, ...]:
    powers = (2**exponent for exponent in range(num_slots.bit_length()))
    return tuple(sorted({size for size in powers if size < num_slots} | {num_slots}))


def _seconds(candidate: _Candidate) -> float:
    # One text alone, a batch of medium size and a chunk of a prompt, in about the proportions that a service sees.
    sizes = sorted(candidate.decode_seconds)
    return candidate.decode_seconds[1] + candidate.decode_seconds[sizes[len(sizes) // 2]] + candidate.chunk_seconds


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
