"""The two graphs of a language model, bound to the memory of its slots.

`prefill` computes a chunk of one prompt, `decode` one token of many slots.

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
from service.engine.generation.sequencing import StepCost
from service.engine.runtime.runtime import EXIT_DEVICE_LOST, Device, bucket_for
from service.errors import InferenceFailed

log = logging.getLogger(__name__)

OnRun = Callable[[str, int, float], None]
"""Is told what ran: its kind, `decode` or `prefill`, the texts or tokens, and when it began."""

# From this size on, NumPy asks for huge pages too: they spare the processor look-ups when whole caches are read.
_MIN_HUGE_BYTES = 2**22


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
        if num_bytes >= _MIN_HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
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


class Decoder:
    """A language model with `num_slots` states, for one thread at a time.

    `tokens` and `lengths` are the input of the next `decode`: a token for each row, and the tokens in its slot.

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
        self._decode = decode
        self._prefill = prefill
        self._buckets = tuple(sorted({*(b for b in buckets if b < num_slots), num_slots})) if buckets else ()
        self._decode_inputs = _inputs(decode, {"token": self.tokens, "length": self.lengths})
        self._logits = np.zeros((num_slots, language.vocab_size), np.float32)
        self._bindings: dict[int, Any] = {}
        self._allocate_prefill()

    def _allocate_prefill(self) -> None:
        self._chunk = np.zeros((1, self.max_chunk), np.int64)
        self._start = np.zeros(1, np.int32)
        self._positions = np.zeros(self.max_chunk, np.int64)
        self._chunk_logits = np.zeros((1, self.max_chunk, self.language.vocab_size), np.float32)
        names = {node.name for node in self._prefill.get_inputs()}
        self._prefill_has_length = "length" in names
        self._slot_bindings: dict[tuple[int, bool], Any] = {}

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
        return tuple(self._decode.get_providers())

    def num_padded(self, num_rows: int) -> int:
        """How many rows a step with `num_rows` computes."""
        return bucket_for(num_rows, self._buckets) if self._buckets else num_rows

    def decode(self, num_rows: int) -> Floats:
        """Compute one more token of the first slots from `tokens` and `lengths`.

        Returns the logits [num_rows, V], which the next call overwrites. Raises: InferenceFailed.
        """
        padded = self.num_padded(num_rows)
        binding = self._bindings.get(padded)
        if binding is None:
            binding = self._bindings[padded] = self._bind_decode(padded)
        if self.states.device.is_cuda:
            _bind_inputs(binding, self._decode_inputs, padded)  # host memory is copied when it is bound
        self._run(self._decode, binding, "decode", num_rows)
        return self._logits[:num_rows]

    def _bind_decode(self, num_rows: int) -> Any:
        binding = self._decode.io_binding()
        _bind_inputs(binding, self._decode_inputs, num_rows)
        self.states.bind(binding, 0, num_rows)
        _bind_host(binding.bind_output, "logits", self._logits, (num_rows, self.language.vocab_size))
        return binding

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, positions: Sequence[int]) -> Floats:
        """Compute at most `max_chunk` tokens of one slot that holds `length` tokens.

        Returns the logits [N, V] after the tokens at `positions`, valid until the next call. Raises: InferenceFailed.
        """
        num_tokens, num_positions = len(tokens), len(positions)
        self._chunk[0, :num_tokens] = tokens
        self._start[0] = length
        self._positions[:num_positions] = positions
        key = (slot, length == 0 and self.is_recurrent)
        binding = self._slot_bindings.get(key)
        if binding is None:
            binding = self._slot_bindings[key] = self._prefill.io_binding()
            self.states.bind(binding, slot, 1, is_fresh=key[1])
        _bind_host(binding.bind_input, "tokens", self._chunk, (1, self._num_computed(num_tokens, length)))
        _bind_host(binding.bind_input, "wanted", self._positions, (num_positions,))
        if self._prefill_has_length:
            _bind_host(binding.bind_input, "length", self._start, (1,))
        shape = (1, num_positions, self.language.vocab_size)
        _bind_host(binding.bind_output, "logits", self._chunk_logits, shape)
        self._run(self._prefill, binding, "prefill", num_tokens)
        return self._chunk_logits.reshape(-1)[: num_positions * shape[2]].reshape(num_positions, shape[2])

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
    """A verified decoder, and the cost of its steps."""

    decoder: Decoder
    cost: StepCost
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
