"""The two graphs of a language model bound to the memory of its slots: chunks of a prompt, and one step for many rows.

Every address is bound once; a step writes two small buffers and runs. It knows slots and lengths, no sequences. On
CUDA a step's rows are padded to a bucket; a padding row writes where the caller says, as any other row does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import Language
from service.engine.batching import scheduling
from service.engine.generation.sampling import Floats
from service.engine.generation.state import SlotStates
from service.engine.runtime.runtime import EXIT_DEVICE_LOST, Device
from service.errors import InferenceFailed

log = logging.getLogger(__name__)


class Decoder:
    """A language model with `num_slots` states; one thread may use it at a time.

    `tokens` and `lengths` are what the next `decode` reads: a token for each row, and how many tokens its slot holds.
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
    ) -> None:
        self.language = language
        self.num_slots = num_slots
        self.max_chunk = min(max_chunk, language.context)
        self.states = SlotStates(language.states, num_slots, device)
        self.is_recurrent = any(spec.length_axis is None for spec in language.states)
        self.tokens = np.zeros(num_slots, np.int64)
        self.lengths = np.zeros(num_slots, np.int32)
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
        self._wanted = np.zeros(self.max_chunk, np.int64)
        self._chunk_logits = np.zeros((1, self.max_chunk, self.language.vocab_size), np.float32)
        names = {node.name for node in self._prefill.get_inputs()}
        self._prefill_has_length = "length" in names
        self._slot_bindings: dict[tuple[int, bool], Any] = {}

    @property
    def can_copy(self) -> bool:
        """Whether `copy` and `context` can be had."""
        return self.states.can_copy

    @property
    def has_padding(self) -> bool:
        """Whether a step may compute rows of slots that do not decode."""
        return bool(self._buckets) or not self.can_copy

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's providers in force."""
        return tuple(self._decode.get_providers())

    def num_padded(self, num_rows: int) -> int:
        """How many rows a step with `num_rows` computes."""
        return scheduling.bucket_for(num_rows, self._buckets) if self._buckets else num_rows

    def decode(self, num_rows: int) -> Floats:
        """Compute one more token of the first slots, as `tokens` and `lengths` say up to the padding.

        Returns the logits [num_rows, V], which the next call overwrites. Raises: InferenceFailed.
        """
        padded = self.num_padded(num_rows)
        binding = self._bindings.get(padded)
        if binding is None:
            binding = self._bindings[padded] = self._bind_decode(padded)
        if self.states.device.is_cuda:
            _bind_inputs(binding, self._decode_inputs, padded)  # memory of the host is copied when it is bound
        self._run(self._decode, binding)
        return self._logits[:num_rows]

    def _bind_decode(self, num_rows: int) -> Any:
        binding = self._decode.io_binding()
        _bind_inputs(binding, self._decode_inputs, num_rows)
        self.states.bind(binding, 0, num_rows)
        _bind_host(binding.bind_output, "logits", self._logits, (num_rows, self.language.vocab_size))
        return binding

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, wanted: Sequence[int]) -> Floats:
        """Compute at most `max_chunk` tokens of one slot that holds `length` tokens.

        Returns the logits [N, V] after the `wanted` tokens, which the next call overwrites. Raises: InferenceFailed.
        """
        num_tokens, num_wanted = len(tokens), len(wanted)
        self._chunk[0, :num_tokens] = tokens
        self._start[0] = length
        self._wanted[:num_wanted] = wanted
        key = (slot, length == 0 and self.is_recurrent)
        binding = self._slot_bindings.get(key)
        if binding is None:
            binding = self._slot_bindings[key] = self._prefill.io_binding()
            self.states.bind(binding, slot, 1, is_fresh=key[1])
        _bind_host(binding.bind_input, "tokens", self._chunk, (1, num_tokens))
        _bind_host(binding.bind_input, "wanted", self._wanted, (num_wanted,))
        if self._prefill_has_length:
            _bind_host(binding.bind_input, "length", self._start, (1,))
        shape = (1, num_wanted, self.language.vocab_size)
        _bind_host(binding.bind_output, "logits", self._chunk_logits, shape)
        self._run(self._prefill, binding)
        return self._chunk_logits.reshape(-1)[: num_wanted * shape[2]].reshape(num_wanted, shape[2])

    def _run(self, session: ort.InferenceSession, binding: Any) -> None:
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


def _inputs(session: ort.InferenceSession, buffers: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = {node.name for node in session.get_inputs()}
    return {name: buffer for name, buffer in buffers.items() if name in names}


def _bind_inputs(binding: Any, buffers: dict[str, NDArray[Any]], num_rows: int) -> None:
    for name, buffer in buffers.items():
        _bind_host(binding.bind_input, name, buffer, (num_rows,))


def _bind_host(bind: Any, name: str, buffer: NDArray[Any], shape: tuple[int, ...]) -> None:
    bind(name, "cpu", 0, buffer.dtype.type, shape, buffer.ctypes.data)
