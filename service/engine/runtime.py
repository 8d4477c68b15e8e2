"""ONNX Runtime: devices, sessions and the runner of a CPU.

It knows arrays and graphs, neither requests nor batches; a CUDA device is run in `cuda.py`. Its options: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from models.manifest import NUMPY_DTYPES, Graph, TensorSpec
from service.engine.arena import ArenaGuard, use_shared_arena
from service.engine.batches import Arrays
from service.errors import InferenceFailed, StartupError

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
EXIT_DEVICE_LOST = 70

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
} | {f"tensor({np.dtype(NUMPY_DTYPES[name]).name})": name for name in NUMPY_DTYPES if "INT" in name}


@dataclass(frozen=True, slots=True)
class Device:
    """Where graphs run: `cpu`, or a CUDA device by its index."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def is_cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return self.kind == "cuda"


def choose_device(wanted: str) -> Device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N` to a device that this installation can drive.

    Raises: StartupError where CUDA is asked for and cannot be had.
    """
    if wanted == "cpu":
        return Device("cpu")
    has_cuda = CUDA in ort.get_available_providers()
    if wanted == "auto":
        return Device("cuda") if has_cuda and os.path.exists("/dev/nvidiactl") else Device("cpu")
    if not has_cuda:
        raise StartupError(
            f"--device {wanted} was asked for, but this ONNX Runtime has {', '.join(ort.get_available_providers())}. "
            "Install the extra 'gpu' instead of 'cpu', or choose --device cpu."
        )
    return Device("cuda", int(wanted.partition(":")[2] or 0))


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """The content of a file of initializers, under the name that the graphs know it by."""

    file: str
    content: bytes


def open_session(
    content: bytes | Path,
    device: Device,
    num_threads: int,
    weights: SharedWeights | None = None,
    *,
    is_prepacked: bool = True,
    spins: bool = False,
    varies: bool = False,
) -> ort.InferenceSession:
    """Create a session from the bytes of an ONNX file and of the weights beside it, or from a file.

    Of a file, ONNX Runtime reads the weights itself, and refuses those that lie outside the file's folder.

    Packing the weights for speed doubles their memory: a graph that is seldom used may do without. Threads that spin
    wait for each other's part of an operator without sleeping, which pays where operators take microseconds; they stop
    at the end of a run, so that an idle engine is idle.

    Raises: InferenceFailed where the file does not load; StartupError where CUDA is not truly in force.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1" if spins else "0")
    if varies and not device.is_cuda:
        use_shared_arena(options)
    if not is_prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if device.is_cuda:
        ort.preload_dlls()
    try:
        if weights is not None:
            sizes = [len(weights.content)]
            options.add_external_initializers_from_files_in_memory([weights.file], [weights.content], sizes)
        source = str(content) if isinstance(content, Path) else content
        session = ort.InferenceSession(source, options, providers=_providers(device, varies))
    except Exception as error:
        raise InferenceFailed(f"ONNX Runtime cannot load the graph{_advice(str(error))}.") from error
    if device.is_cuda and session.get_providers()[0] != CUDA:
        raise StartupError(
            f"{device} was asked for, but the session runs on {session.get_providers()[0]}: "
            "the driver, CUDA 13 or cuDNN 9 do not fit this onnxruntime-gpu."
        )
    return session


_ADVICE = {
    "ValidateOpsetForDomain": "its opset is newer than this version of ONNX Runtime knows: export it with an older "
    "one, or update ONNX Runtime",
    "Unsupported model IR version": "its format is newer than this version of ONNX Runtime knows: save it with an "
    "older ir_version, or update ONNX Runtime",
    "External data path": "its external data must be files in its own folder, named without a way out of it",
    "No Op registered for": "it has an operator that ONNX Runtime does not have: export it without custom operators",
    "NOT_IMPLEMENTED": "it has an operator or a datatype that ONNX Runtime does not compute on this device",
}


def _advice(reason: str) -> str:
    return next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in reason), "")


def _providers(device: Device, varies: bool) -> list[Any]:
    if not device.is_cuda:
        return [CPU]
    # Measured on an H100: NHWC makes ResNet-50 a fifth faster, and painting, where shapes vary, half as fast.
    options = {
        "device_id": str(device.index),
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "0" if varies else "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(CUDA, options), CPU]


def signature_mismatch(graph: Graph, session: ort.InferenceSession) -> str | None:
    """Say where the manifest and the graph disagree in names, datatypes or fixed sizes; None where they agree."""
    sides = (("input", graph.inputs, session.get_inputs()), ("output", graph.outputs, session.get_outputs()))
    for side, specs, nodes in sides:
        real = {node.name: node for node in nodes}
        if side == "input" and set(real) != {spec.name for spec in specs}:
            return f"the graph's inputs are {sorted(real)}, not {sorted(spec.name for spec in specs)}."
        for spec in specs:
            if spec.name not in real:
                return f"the graph has no {side} {spec.name!r}; it has {sorted(real)}."
            if DATATYPES.get(real[spec.name].type) != spec.datatype:
                return f"{side} {spec.name!r} is {real[spec.name].type} in the graph, not {spec.datatype}."
            if side == "input" and not _shapes_agree(spec, real[spec.name].shape):
                return f"input {spec.name!r} has the shape {real[spec.name].shape} in the graph, not {spec.shape}."
    return None


def _shapes_agree(spec: TensorSpec, shape: Sequence[int | str | None]) -> bool:
    return len(spec.shape) == len(shape) and all(
        not isinstance(size, int) or size == wanted for wanted, size in zip(spec.shape, shape, strict=True)
    )


class CpuRunner:
    """Runs a session on the CPU, on views of the batch arrays; any number of threads may share it."""

    def __init__(self, session: ort.InferenceSession, *, varies: bool = False) -> None:
        self._session = session
        self._arena = ArenaGuard() if varies else None

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        """Compute the first `num_rows` rows.

        Raises: InferenceFailed.
        """
        feed = {name: array[:num_rows] for name, array in arrays.items()}
        options = self._arena.run_options() if self._arena is not None else None
        try:
            values = self._session.run(list(outputs), feed, options)
        except Exception as error:
            raise InferenceFailed("The model could not compute this input.") from error
        return dict(zip(outputs, values, strict=True))
