"""What must hold on the device before speed counts: the providers in force, where nodes run, and golden parity.

It knows ONNX Runtime and version folders, not the service.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]

from models.golden import Golden, largest_error, read_golden
from models.manifest import read_manifest

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
# TF32 keeps 10 bits of a float32's mantissa and cuDNN uses it whatever use_tf32 says, so errors near 1e-3 of the
# largest value are the hardware's, and float16 has the same 10 bits.
RELATIVE_TOLERANCE = 1e-2
# ONNX Runtime puts arithmetic on shapes on the CPU on purpose; any other node there is a fallback.
_SHAPE_OPS = frozenset({"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Range", "Constant"})


class DeviceError(RuntimeError):
    """The device is missing or does not run what it was asked to; the message says which."""


def require_provider(device: str) -> str:
    """The name of the execution provider of `device`.

    Raises: DeviceError when this ONNX Runtime was built without it.
    """
    wanted, have = PROVIDERS[device], onnxruntime.get_available_providers()
    if wanted not in have:
        raise DeviceError(
            f"{wanted} is not in this ONNX Runtime, which has {', '.join(have)}; install onnxruntime-gpu >= 1.28."
        )
    return wanted


def open_session(model: Path, device: str) -> Any:
    """Open a session that records where its nodes run.

    Raises: DeviceError when the wanted provider is not in force.
    """
    wanted = require_provider(device)
    if device == "cuda":
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings: dict[str, str] = {"cudnn_conv_algo_search": "HEURISTIC"} if device == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=[(wanted, settings)])
    except Exception as error:  # ONNX Runtime raises its own classes, which share no public base.
        raise DeviceError(f"{model} cannot be opened with {wanted}: {error}.") from error
    if session.get_providers()[0] != wanted:
        raise DeviceError(f"{model} runs on {session.get_providers()}; {wanted} must come first.")
    return session


def placement(session: Any) -> dict[str, dict[str, int]]:
    """How many nodes of which operator each provider was given."""
    placed: dict[str, dict[str, int]] = {}
    for part in session.get_provider_graph_assignment_info():
        counts = placed.setdefault(part.ep_name, {})
        for node in part.get_nodes():
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return placed


def strays(placed: dict[str, dict[str, int]], device: str) -> list[str]:
    """The operators that run elsewhere than on the device, arithmetic on shapes left aside."""
    wanted = PROVIDERS[device]
    return sorted(
        op for provider, counts in placed.items() if provider != wanted for op in counts if op not in _SHAPE_OPS
    )


def _scaled_error(golden: Golden, session: Any) -> dict[str, float]:
    """The largest error of each output, over its largest golden value or 1."""
    names = list(golden.outputs)
    found = session.run(names, golden.inputs)
    return {
        name: largest_error(golden.outputs[name], value) / max(1.0, float(np.abs(golden.outputs[name]).max()))
        for name, value in zip(names, found, strict=True)
    }


def check_model(folder: Path, device: str) -> list[dict[str, Any]]:
    """Check every graph of a version: placement, and golden I/O at batch 1, as recorded, and the largest.

    Raises: DeviceError, StrictError, OSError.
    """
    manifest, goldens = read_manifest(folder), read_golden(folder)
    reports = []
    for name, graph in manifest.graphs.items():
        started = time.monotonic()
        session = open_session(folder / graph.file, device)
        load_seconds, placed, golden = time.monotonic() - started, placement(session), goldens[name]
        num_rows = len(next(iter(golden.inputs.values())))
        sizes = sorted({1, num_rows, manifest.batching.max_batch_size})
        errors = {str(size): _scaled_error(golden.repeated(size), session) for size in sizes}
        reports.append(
            {
                "model": manifest.name,
                "graph": name,
                "providers": session.get_providers(),
                "placement": placed,
                "strays": strays(placed, device),
                "load_seconds": load_seconds,
                "relative_errors": errors,
                "largest_relative_error": max(error for by_output in errors.values() for error in by_output.values()),
            }
        )
    return reports


def bare_pace(session: Any, batch: int, seconds: float) -> dict[str, float]:
    """Images/s and the median run of one session with bound outputs; the copies to and from the device are counted."""
    spec = session.get_inputs()[0]
    image = np.random.default_rng(0).integers(0, 256, (batch, *spec.shape[1:]), dtype=np.uint8)
    binding = session.io_binding()
    binding.bind_output("probabilities", "cpu")
    laps: list[float] = []
    for _ in range(3):
        binding.bind_cpu_input(spec.name, image)
        session.run_with_iobinding(binding)
    started = before = time.perf_counter()
    while before < started + seconds:
        binding.bind_cpu_input(spec.name, image)
        session.run_with_iobinding(binding)
        after = time.perf_counter()
        laps.append(after - before)
        before = after
    return {"images_per_second": batch * len(laps) / (before - started), "p50_ms": float(np.median(laps)) * 1000}
