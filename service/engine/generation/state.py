"""The memory of a decoder's slots: for each state one buffer with a row for each slot, allocated once.

It knows addresses and shapes, neither sessions nor what the rows mean. On a CUDA device the buffers live there; ONNX
Runtime's Python API offers no copies between parts of them, so slots stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import StateSpec
from service.engine.runtime.runtime import Device


class SlotStates:
    """The states of all slots, slot-major: the first rows are the states of the first slots."""

    def __init__(self, specs: Sequence[StateSpec], num_slots: int, device: Device) -> None:
        self.specs = tuple(specs)
        self.num_slots = num_slots
        self.device = device
        self.can_copy = not device.is_cuda
        self._arrays: dict[str, NDArray[Any]] = {}
        self._values: list[Any] = []  # keeps device memory alive
        self._addresses: dict[str, int] = {}
        self._zero_addresses: dict[str, int] = {}
        self._zeros: list[Any] = []
        for spec in self.specs:
            self._allocate(spec)

    def _allocate(self, spec: StateSpec) -> None:
        array = np.zeros((self.num_slots, *spec.shape), spec.dtype)
        zero = np.zeros((1, *spec.shape), spec.dtype)
        if self.device.is_cuda:
            kind, index = self.device.kind, self.device.index
            values = [ort.OrtValue.ortvalue_from_numpy(source, kind, index) for source in (array, zero)]
            self._values += values
            self._addresses[spec.name], self._zero_addresses[spec.name] = (value.data_ptr() for value in values)
            return
        self._arrays[spec.name] = array
        self._zeros.append(zero)
        self._addresses[spec.name], self._zero_addresses[spec.name] = array.ctypes.data, zero.ctypes.data

    def bind(self, binding: Any, first: int, num_rows: int, *, is_fresh: bool = False) -> None:
        """Bind rows from slot `first` on as the states of a run, in place.

        A fresh row's recurrent states are read from zeros: a new sequence has no past. Key-value caches need no such
        care, as nothing beyond a sequence's length is read.
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

    def context(self, first: int, second: int, length: int) -> None:
        """RequestContext what two slots hold of their first `length` tokens."""
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
