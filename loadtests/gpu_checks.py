"""What must hold on the device before speed counts: the providers in force, where nodes run, and golden parity.

It knows ONNX Runtime and version folders, not the service.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from models.golden import Golden, largest_error, read_golden
from models.manifest import Language, Manifest, read_manifest

Errors = dict[str, dict[str, float]]  # by batch size and output

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
# TF32 keeps 10 bits of a float32's mantissa and cuDNN uses it whatever use_tf32 says, so errors near 1e-3 of the
# largest value are the hardware's, and float16 has the same 10 bits.
RELATIVE_TOLERANCE = 1e-2
# ONNX Runtime puts arithmetic on shapes on the CPU on purpose: for all else these operators have CUDA kernels. Any
# other node there is a fallback.
_SHAPE_OPS = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Range", "Constant"}
    | {"Add", "Sub", "Mul", "Cast", "Reshape"}
)


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


def open_session(model: Path, device: str, *, varies: bool = False) -> Any:
    """Open a session that records where its nodes run, with the service's settings; `varies`: rows vary in size.

    Raises: DeviceError when the wanted provider is not in force.
    """
    wanted = require_provider(device)
    if device == "cuda":
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0" if varies else "1"}
    settings: dict[str, str] = cuda if device == "cuda" else {}
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


def _relative(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest error over the largest expected value or 1."""
    return largest_error(expected, found) / max(1.0, float(np.abs(expected).max()))


def _errors(golden: Golden, session: Any) -> dict[str, float]:
    found = session.run(list(golden.outputs), golden.inputs)
    return {name: _relative(value, array) for (name, value), array in zip(golden.outputs.items(), found, strict=True)}


def _errors_by_size(manifest: Manifest, name: str, golden: Golden, session: Any) -> Errors:
    """At batch 1, as many rows as recorded, and the largest batch of this graph."""
    limit = min(manifest.batching.max_batch_size, manifest.graphs[name].max_batch_size or sys.maxsize)
    num_rows = min(len(next(iter(golden.inputs.values()))), limit)
    return {str(size): _errors(golden.repeated(size), session) for size in sorted({1, num_rows, limit})}


def _run_language(session: Any, inputs: dict[str, NDArray[Any]], language: Language) -> tuple[NDArray[Any], Any]:
    """The logits and the next states; inputs that the graph does not have are left out."""
    names = {node.name for node in session.get_inputs()}
    wanted = ["logits", *(f"next_{state.name}" for state in language.states)]
    logits, *states = session.run(wanted, {name: value for name, value in inputs.items() if name in names})
    return logits, dict(zip((state.name for state in language.states), states, strict=True))


def _language_errors(golden: Golden, language: Language, decode: Any, prefill: Any) -> dict[str, Errors]:
    """Half of each golden sequence as a prompt, row by row; then all rows step by step, as one batch."""
    tokens, logits = golden.inputs["tokens"], golden.outputs["logits"]
    num_rows, num_tokens = tokens.shape
    half, zeros = num_tokens // 2, {s.name: np.zeros((1, *s.shape), s.dtype) for s in language.states}
    prompt: dict[str, NDArray[Any]] = {"length": np.zeros(1, np.int32), "wanted": np.arange(half, dtype=np.int64)}
    found = [_run_language(prefill, prompt | zeros | {"tokens": row[None, :half]}, language) for row in tokens]
    prompts = [_relative(logits[i, :half], row[0]) for i, (row, _) in enumerate(found)]
    errors: dict[str, float] = {"prefill": max(prompts), "decode": 0.0}
    states = {name: np.concatenate([each[name] for _, each in found]) for name in zeros}
    for position in range(half, num_tokens):
        step = {"token": tokens[:, position], "length": np.full(num_rows, position, np.int32), **states}
        actual, states = _run_language(decode, step, language)
        errors["decode"] = max(errors["decode"], _relative(logits[:, position], actual))
    return {graph: {str(num_rows): {"logits": error}} for graph, error in errors.items()}


def check_model(folder: Path, device: str) -> list[dict[str, Any]]:
    """Check every graph of a version: placement, and golden I/O at batch 1, as recorded, and the largest.

    A graph that fails says so in `failure`. Raises: ValueError, OSError when the version cannot be read.
    """
    manifest, goldens = read_manifest(folder), read_golden(folder)
    sessions: dict[str, Any] = {}
    reports: dict[str, dict[str, Any]] = {}
    for name, graph in manifest.graphs.items():
        started = time.monotonic()
        report: dict[str, Any] = {"model": manifest.name, "graph": name, "relative_errors": {}, "failure": None}
        reports[name] = report
        with _noting_failure(report):
            varies = manifest.language is None and any(size < 0 for spec in graph.inputs for size in spec.row_shape)
            sessions[name] = session = open_session(folder / graph.file, device, varies=varies)
            placed = placement(session)
            report |= {"providers": session.get_providers(), "placement": placed, "strays": strays(placed, device)}
            report["load_seconds"] = time.monotonic() - started
            if name in goldens:
                report["relative_errors"] = _errors_by_size(manifest, name, goldens[name], session)
    if manifest.language is not None and {"decode", "prefill"} <= set(sessions):
        with _noting_failure(reports["decode"]):
            sides = sessions["decode"], sessions["prefill"]
            for name, errors in _language_errors(goldens["sequence"], manifest.language, *sides).items():
                reports[name]["relative_errors"] = errors
    for report in reports.values():
        values = [error for by_output in report["relative_errors"].values() for error in by_output.values()]
        report["largest_relative_error"] = max(values, default=None)
    return list(reports.values())


@contextlib.contextmanager
def _noting_failure(report: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a device may fail in any way, and the other graphs are to be checked still
        report["failure"] = f"{type(error).__name__}: {error}"


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
