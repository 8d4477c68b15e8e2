"""Runs a session on a CUDA device: buckets, pinned memory, and every address bound.

It knows arrays and graphs, neither requests nor batches. Session options are in `runtime.py`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from models.manifest import Graph, TensorSpec
from service.engine.runtime.runtime import CUDA, EXIT_DEVICE_LOST, Device, bucket_for
from service.engine.transport.messages import Arrays, RowShapes
from service.errors import InferenceFailed

log = logging.getLogger(__name__)

# Where rows vary in size, at most this many pairs of shape and bucket keep memory; the least recently used go first.
MAX_VARYING_BUFFERS = 16


class BoundBuffers:
    """The memory of batches of one bucket and one row shape: pinned and device arrays, and what is bound to them."""

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, row_shapes: RowShapes, bucket: int, device: Device
    ) -> None:
        self._session = session
        self._graph = graph
        self._bucket = bucket
        self._device = device
        shapes = {s.name: (bucket, *shape) for s, shape in zip(graph.inputs, row_shapes, strict=True)}
        self._pinned = {s.name: self._allocate_pinned(s, shapes[s.name]) for s in graph.inputs}
        self._inputs = {s.name: self._allocate(s, shapes[s.name]) for s in graph.inputs}
        self._bindings: dict[tuple[str, ...], ort.IOBinding] = {}

    def copy_in(self, arrays: Arrays, num_rows: int) -> None:
        """Copy rows to the device; the rest of the bucket is zeros."""
        for name, array in arrays.items():
            pinned = self._pinned[name]
            pinned[:num_rows] = array[:num_rows]
            pinned[num_rows:] = 0
            self._inputs[name].update_inplace(pinned)

    def binding(self, outputs: tuple[str, ...]) -> ort.IOBinding:
        """The inputs and these outputs, bound; ONNX Runtime allocates outputs of unknown size."""
        if outputs not in self._bindings:
            binding = self._session.io_binding()
            for spec in self._graph.inputs:
                binding.bind_ortvalue_input(spec.name, self._inputs[spec.name])
            specs = {spec.name: spec for spec in self._graph.outputs}
            for name in outputs:  # they come back in this order
                if any(size < 0 for size in specs[name].row_shape):
                    binding.bind_output(name, self._device.kind, self._device.index)
                else:
                    shape = (self._bucket, *specs[name].row_shape)
                    binding.bind_ortvalue_output(name, self._allocate(specs[name], shape))
            self._bindings[outputs] = binding
        return self._bindings[outputs]

    def _allocate(self, spec: TensorSpec, shape: Sequence[int]) -> ort.OrtValue:
        kind, index = self._device.kind, self._device.index
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), spec.dtype, kind, index)

    def _allocate_pinned(self, spec: TensorSpec, shape: Sequence[int]) -> Any:
        memory = _pinned_memory(self._device)
        if memory is None:
            return np.zeros(shape, spec.dtype)
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), spec.dtype, memory_info=memory).numpy()


class CudaRunner:
    """Runs a graph on a CUDA device for one instance.

    A batch is padded to a bucket, copied from pinned memory to device memory of its own and computed with every address
    bound; only the requested outputs are copied back. Two instances share the sessions: while one computes, the other
    copies. Each bucket has a session, because a convolution keeps the plan of the last shape only and planning takes
    milliseconds; where rows vary in size one session serves all. CUDA graphs need fixed addresses, so there are none
    where rows vary in size.
    """

    def __init__(
        self,
        sessions: Mapping[int, ort.InferenceSession],
        graph: Graph,
        device: Device,
        compute_lock: threading.Lock,
        graph_id_base: int | None,
    ) -> None:
        self._sessions = sessions
        self._graph = graph
        self._buckets = tuple(sorted(sessions))
        self._device = device
        self._lock = compute_lock
        self._varies = any(size < 0 for spec in graph.inputs for size in spec.row_shape)
        self._graph_id_base = None if self._varies else graph_id_base
        self._buffers: OrderedDict[tuple[RowShapes, int], BoundBuffers] = OrderedDict()
        if not self._varies:
            for bucket in self._buckets:
                self._buffers_for(self._row_shapes({}), bucket)

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        """Compute the first `num_rows` rows.

        Raises: InferenceFailed. A CUDA error ends the process, as the device context is lost.
        """
        bucket = bucket_for(num_rows, self._buckets)
        try:
            buffers = self._buffers_for(self._row_shapes(arrays), bucket)
            buffers.copy_in(arrays, num_rows)
            binding = buffers.binding(tuple(outputs))
            with self._lock:
                binding.synchronize_inputs()
                self._sessions[bucket].run_with_iobinding(binding, self._run_options(bucket))
                binding.synchronize_outputs()
            values = [value.numpy() for value in binding.get_outputs()]
        except Exception as error:
            if "CUDA" in str(error) or "CUDNN" in str(error):
                log.critical("the CUDA device failed; the engine ends and is replaced", exc_info=error)
                os._exit(EXIT_DEVICE_LOST)
            raise InferenceFailed("The model could not compute this input.") from error
        # Of an output without a row for each row of the bucket, nobody knows which are whose.
        rows = (value[: num_rows if value.ndim and len(value) == bucket else 0] for value in values)
        return dict(zip(outputs, rows, strict=True))

    @property
    def num_buffers(self) -> int:
        """Pairs of row shape and bucket with memory of their own."""
        return len(self._buffers)

    def _row_shapes(self, arrays: Arrays) -> RowShapes:
        inputs = self._graph.inputs
        return tuple(arrays[spec.name].shape[1:] if self._varies else spec.row_shape for spec in inputs)

    def _buffers_for(self, row_shapes: RowShapes, bucket: int) -> BoundBuffers:
        key = (row_shapes, bucket)
        if key not in self._buffers:
            if self._varies and len(self._buffers) >= MAX_VARYING_BUFFERS:
                self._buffers.popitem(last=False)
            self._buffers[key] = BoundBuffers(self._sessions[bucket], self._graph, row_shapes, bucket, self._device)
        self._buffers.move_to_end(key)
        return self._buffers[key]

    def _run_options(self, bucket: int) -> ort.RunOptions:
        options = ort.RunOptions()
        if self._graph_id_base is not None:
            options.add_run_config_entry("gpu_graph_id", str(self._graph_id_base + bucket))
        return options


def _pinned_memory(device: Device) -> Any:
    matching = [d for d in ort.get_ep_devices() if d.ep_name == CUDA]
    if device.index >= len(matching):
        log.warning("this ONNX Runtime offers no pinned memory; batches are copied from pageable memory")
        return None
    return matching[device.index].memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
