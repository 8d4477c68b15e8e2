"""The two graphs of a language model, bound to the memory of its slots.

`prefill` computes a chunk of one prompt, or several whole prompts, `decode` one token of many slots.

Every address is bound once; a step writes two small buffers and runs. It knows slots and lengths, not sequences. On
CUDA the rows of a step are padded to a bucket; a padding row writes where its length says, as any other row does.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import Language, StateSpec
from service.engine.generation.sampling import Floats
from service.engine.generation.step_costs import DECODE, PREFILL, StepCosts
from service.engine.runtime.runtime import EXIT_DEVICE_LOST, Device, bucket_for
from service.errors import InferenceFailed

log = logging.getLogger(__name__)

OnRun = Callable[[str, int, float], None]
"""Is told what ran: its kind, `decode` or `prefill`, the texts or tokens, and when it began."""

# From this size on, NumPy asks for huge pages too: they spare the processor look-ups when whole caches are read.
_MIN_HUGE_BYTES = 2**22
# Of all states together; beyond, a short text would take the memory of a long one, as a huge page holds a slot's head.
_MAX_HUGE_BYTES = 2**29


class SlotStates:
    """The states of all slots: for each state one buffer with a row for each slot, at one address for ever.

    Their pages take memory from when they are first written until `release`. On a CUDA device the buffers are there,
    and keep it; ONNX Runtime's Python API cannot copy between parts of them, so states stay in their slots.
    """

    def __init__(self, specs: Sequence[StateSpec], num_slots: int, device: Device) -> None:
        self.specs = tuple(specs)
        self.num_slots = num_slots
        self.device = device
        self.can_copy = not device.is_cuda
        self._arrays: dict[str, NDArray[Any]] = {}
        self._pages: list[mmap.mmap] = []
        self._values: list[Any] = []  # keeps device memory alive
        self._addresses: dict[str, int] = {}
        self._zero_addresses: dict[str, int] = {}
        self._zeros: list[Any] = []
        total = num_slots * sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in self.specs)
        self._has_huge_pages = total <= _MAX_HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE")
        for spec in self.specs:
            self._allocate(spec)

    def _allocate(self, spec: StateSpec) -> None:
        shape = (self.num_slots, *spec.shape)
        zero = np.zeros((1, *spec.shape), spec.dtype)
        if self.device.is_cuda:
            array = np.zeros(shape, spec.dtype)
            kind, index = self.device.kind, self.device.index
            values = [ort.OrtValue.ortvalue_from_numpy(source, kind, index) for source in (array, zero)]
            self._values += values
            self._addresses[spec.name], self._zero_addresses[spec.name] = (value.data_ptr() for value in values)
            return
        array = self._arrays[spec.name] = self._map(shape, spec.dtype)
        self._zeros.append(zero)
        self._addresses[spec.name], self._zero_addresses[spec.name] = array.ctypes.data, zero.ctypes.data

    def _map(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Zeros whose pages come when they are written."""
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        pages = mmap.mmap(-1, max(num_bytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if num_bytes >= _MIN_HUGE_BYTES and self._has_huge_pages:
            with contextlib.suppress(OSError):  # a kernel without them
                pages.madvise(mmap.MADV_HUGEPAGE)
        self._pages.append(pages)
        return np.frombuffer(pages, dtype, num_bytes // dtype.itemsize).reshape(shape)

    def release(self) -> None:
        """Set all states to zero and give their memory back; only between steps."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._pages:
                pages.madvise(mmap.MADV_DONTNEED)

    def bind(self, binding: Any, first: int, num_rows: int, *, is_fresh: bool = False) -> None:
        """Bind the rows from slot `first` on as the states of a run, in place.

        The recurrent states of a fresh row are read from zeros. Key-value caches need none, as nothing beyond a
        sequence's length is read.
        """
        kind, index = self.device.kind, self.device.index
        for spec in self.specs:
            shape = (num_rows, *spec.shape)
            row_bytes = int(np.prod(spec.shape)) * spec.dtype.itemsize
            address = self._addresses[spec.name] + first * row_bytes
            is_zero = is_fresh and spec.length_axis is None
            source = self._zero_addresses[spec.name] if is_zero else address
            binding.bind_input(spec.name, kind, index, spec.dtype.type, shape, source)
            binding.bind_output(f"next_{spec.name}", kind, index, spec.dtype.type, shape, address)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the state of a slot's first `length` tokens to another slot; recurrent states are copied whole."""
        for spec in self.specs:
            array = self._arrays[spec.name]
            part = _prefix(spec, length)
            array[target][part] = array[source][part]

    def swap(self, first: int, second: int, length: int) -> None:
        """Swap the states of two slots' first `length` tokens."""
        for spec in self.specs:
            array = self._arrays[spec.name]
            part = _prefix(spec, length)
            kept = array[first][part].copy()
            array[first][part] = array[second][part]
            array[second][part] = kept


def _prefix(spec: StateSpec, length: int) -> tuple[slice, ...]:
    axes = (slice(None),) * len(spec.shape)
    if spec.length_axis is None:
        return axes
    return (*axes[: spec.length_axis], slice(0, length))


class _BoundSessions:
    """The sessions of one number of threads, with what is bound to them."""

    def __init__(self, decode: ort.InferenceSession, prefill: ort.InferenceSession) -> None:
        self.decode = decode
        self.prefill = prefill
        self.rows: dict[int, Any] = {}
        self.slots: dict[tuple[int, bool], Any] = {}


class Decoder:
    """A language model with `num_slots` states, for one thread at a time.

    `tokens` and `lengths` are the input of the next `decode`: a token for each row, and the tokens in its slot. The
    sessions given are taken whatever `num_threads` says until others are added for that number.

    `is_rounded`: activations are rounded to levels. Attention adds up one token in another order than several; the last
    bit may then decide between two levels, so that a step may write another state than a prompt with the same tokens.
    """

    def __init__(
        self,
        decode: ort.InferenceSession,
        prefill: ort.InferenceSession,
        language: Language,
        num_slots: int,
        max_chunk: int,
        device: Device,
        buckets: Sequence[int] = (),
        *,
        is_rounded: bool = False,
    ) -> None:
        self.language = language
        self.num_slots = num_slots
        self.max_chunk = min(max_chunk, language.context)
        self.states = SlotStates(language.states, num_slots, device)
        self.is_rounded = is_rounded
        self.is_recurrent = any(spec.length_axis is None for spec in language.states)
        self.tokens = np.zeros(num_slots, np.int64)
        self.lengths = np.zeros(num_slots, np.int32)
        self.on_run: OnRun = _ignore
        self._first = self._bound = _BoundSessions(decode, prefill)
        self._by_threads: dict[int, _BoundSessions] = {}
        self._buckets = tuple(sorted({*(b for b in buckets if b < num_slots), num_slots})) if buckets else ()
        self._decode_inputs = _inputs(decode, {"token": self.tokens, "length": self.lengths})
        self._logits = np.zeros((num_slots, language.vocab_size), np.float32)
        self._allocate_prefill()

    def _allocate_prefill(self) -> None:
        self._chunk = np.zeros((1, self.max_chunk), np.int64)
        self._start = np.zeros(1, np.int32)
        self._positions = np.zeros(self.max_chunk, np.int64)
        self._chunk_logits = np.zeros((1, self.max_chunk, self.language.vocab_size), np.float32)
        self._starts = np.zeros(self.num_slots, np.int32)
        prefill = self._first.prefill
        self._prefill_has_length = "length" in {node.name for node in prefill.get_inputs()}
        # Where the rows of the logits are all that is wanted of all prompts, those are numbered through.
        is_through = prefill.get_outputs()[0].shape[0] == 1
        self.can_join = is_through and not self.is_recurrent and not self.states.device.is_cuda

    def add(self, num_threads: int, decode: ort.InferenceSession, prefill: ort.InferenceSession) -> None:
        """Add sessions of the same graphs, to be taken for a number of threads."""
        self._by_threads[num_threads] = _BoundSessions(decode, prefill)

    def use(self, num_threads: int) -> None:
        """Compute with so many threads from now on."""
        self._bound = self._by_threads.get(num_threads, self._first)

    @property
    def can_copy(self) -> bool:
        """Whether states can be copied and swapped."""
        return self.states.can_copy

    @property
    def has_padding(self) -> bool:
        """Whether a step may compute rows of slots that are not decoding."""
        return bool(self._buckets) or not self.can_copy

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's active providers."""
        return tuple(self._first.decode.get_providers())

    def num_padded(self, num_rows: int) -> int:
        """How many rows a step with `num_rows` computes."""
        return bucket_for(num_rows, self._buckets) if self._buckets else num_rows

    def decode(self, num_rows: int) -> Floats:
        """Compute one more token of the first slots from `tokens` and `lengths`.

        Returns the logits [num_rows, V], which the next call overwrites. Raises: InferenceFailed.
        """
        padded, bound = self.num_padded(num_rows), self._bound
        binding = bound.rows.get(padded)
        if binding is None:
            binding = bound.rows[padded] = self._bind_decode(bound.decode, padded)
        if self.states.device.is_cuda:
            _bind_inputs(binding, self._decode_inputs, padded)  # host memory is copied when it is bound
        self._run(bound.decode, binding, DECODE, num_rows)
        return self._logits[:num_rows]

    def _bind_decode(self, session: ort.InferenceSession, num_rows: int) -> Any:
        binding = session.io_binding()
        _bind_inputs(binding, self._decode_inputs, num_rows)
        self.states.bind(binding, 0, num_rows)
        _bind_host(binding.bind_output, "logits", self._logits, (num_rows, self.language.vocab_size))
        return binding

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, positions: Sequence[int]) -> Floats:
        """Compute at most `max_chunk` tokens of one slot that holds `length` tokens.

        Returns the logits [N, V] after the tokens at `positions`, valid until the next call. Raises: InferenceFailed.
        """
        self._chunk[0, : len(tokens)] = tokens
        self._start[0] = length
        key = (slot, length == 0 and self.is_recurrent)
        binding = self._bound.slots.get(key)
        if binding is None:
            binding = self._bound.slots[key] = self._bound.prefill.io_binding()
            self.states.bind(binding, slot, 1, is_fresh=key[1])
        num_computed = self._num_computed(len(tokens), length)
        return self._compute(binding, self._start, (1, num_computed), positions, len(tokens))

    def prefill_together(
        self, slot: int, prompts: Sequence[NDArray[Any]], positions: Sequence[Sequence[int]]
    ) -> Floats:
        """Compute whole prompts in slots from `slot` on, which are empty; only if the decoder `can_join`.

        As many times the longest as there are fit into `max_chunk`. Returns the logits [N, V] after the tokens at the
        `positions` of each, one prompt's after the other's, valid until the next call. Raises: InferenceFailed.
        """
        num_rows, longest = len(prompts), max(map(len, prompts))
        size = self._num_computed(longest, 0)
        # What is computed of a shorter prompt beyond its end is written to its cache, where nothing reads it.
        tokens = np.zeros((num_rows, size), np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        self._chunk[0, : tokens.size] = tokens.reshape(-1)
        binding = self._bound.prefill.io_binding()
        self.states.bind(binding, slot, num_rows)
        wanted = [row * size + position for row, each in enumerate(positions) for position in each]
        return self._compute(binding, self._starts, (num_rows, size), wanted, sum(map(len, prompts)))

    def _compute(
        self, binding: Any, starts: NDArray[Any], shape: tuple[int, int], positions: Sequence[int], num_tokens: int
    ) -> Floats:
        num_positions, vocab_size = len(positions), self.language.vocab_size
        self._positions[:num_positions] = positions
        _bind_host(binding.bind_input, "tokens", self._chunk, shape)
        _bind_host(binding.bind_input, "wanted", self._positions, (num_positions,))
        if self._prefill_has_length:
            _bind_host(binding.bind_input, "length", starts, (shape[0],))
        _bind_host(binding.bind_output, "logits", self._chunk_logits, (1, num_positions, vocab_size))
        self._run(self._bound.prefill, binding, PREFILL, num_tokens)
        return self._chunk_logits.reshape(-1)[: num_positions * vocab_size].reshape(num_positions, vocab_size)

    def _num_computed(self, num_tokens: int, length: int) -> int:
        """How many tokens a chunk computes: not one by itself where it would round otherwise than among others."""
        has_room = min(self.max_chunk, self.language.context - length) > 1
        # Nothing reads what is written to a cache beyond a sequence's end.
        return 2 if num_tokens == 1 and self.is_rounded and has_room and not self.is_recurrent else num_tokens

    def _run(self, session: ort.InferenceSession, binding: Any, kind: str, size: int) -> None:
        started_at = monotonic()
        try:
            if self.states.device.is_cuda:
                binding.synchronize_inputs()
            session.run_with_iobinding(binding)
            if self.states.device.is_cuda:
                binding.synchronize_outputs()
        except Exception as error:
            if "CUDA" in str(error) or "CUDNN" in str(error):
                log.critical("the CUDA device failed; the engine ends and is replaced", exc_info=error)
                os._exit(EXIT_DEVICE_LOST)
            raise InferenceFailed("The model could not compute this text.") from error
        finally:
            self.on_run(kind, size, started_at)


@dataclass(frozen=True, slots=True)
class LoadedDecoder:
    """A verified decoder, the costs of its steps, and the number of threads that it begins with."""

    decoder: Decoder
    costs: StepCosts
    num_threads: int
    golden_error: float
    providers: tuple[str, ...]


def _ignore(_kind: str, _size: int, _started_at: float) -> None: ...


def _inputs(session: ort.InferenceSession, buffers: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = {node.name for node in session.get_inputs()}
    return {name: buffer for name, buffer in buffers.items() if name in names}


def _bind_inputs(binding: Any, buffers: dict[str, NDArray[Any]], num_rows: int) -> None:
    for name, buffer in buffers.items():
        _bind_host(binding.bind_input, name, buffer, (num_rows,))


def _bind_host(bind: Any, name: str, buffer: NDArray[Any], shape: tuple[int, ...]) -> None:
    bind(name, "cpu", 0, buffer.dtype.type, shape, buffer.ctypes.data)
