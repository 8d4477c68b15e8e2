"""Utilisation, memory and power of the GPU that the engine computes on, read through NVML where that can be had.

NVML numbers GPUs by their place on the bus and knows nothing of `CUDA_VISIBLE_DEVICES`, which says whose number CUDA's
is. A service without a GPU never imports this.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
WATTS_PER_MILLIWATT = 1e-3


class Gpu:
    """One GPU, its gauges bound once; what it cannot tell (a MIG instance has no utilisation) is left out."""

    def __init__(self, nvml: Any, handle: Any, index: int, metrics: Metrics) -> None:
        self._nvml = nvml
        self._handle = handle
        labels = (str(index), nvml.nvmlDeviceGetUUID(handle))
        self._utilization = metrics.gpu_utilization_ratio, labels
        self._used = metrics.gpu_memory_used_bytes, labels
        self._total = metrics.gpu_memory_bytes, labels
        self._power = metrics.gpu_power_watts, labels

    def report(self) -> None:
        """Set the gauges to what NVML says now."""
        nvml, handle = self._nvml, self._handle
        self._set(self._utilization, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        self._set(self._used, lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used)
        self._set(self._total, lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
        self._set(self._power, lambda: nvml.nvmlDeviceGetPowerUsage(handle) * WATTS_PER_MILLIWATT)

    def _set(self, gauge: Any, read: Any) -> None:
        try:
            value = read()
        except self._nvml.NVMLError:
            return
        metric, labels = gauge
        metric.labels(*labels).set(value)


def open_gpu(metrics: Metrics, cuda_index: int, environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """Open the GPU that CUDA gives this number; None, and a line in the log, where NVML cannot be had."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        log.info("the GPU is not measured: nvidia-ml-py is not installed")
        return None
    named = nvml_name(cuda_index, environment.get("CUDA_VISIBLE_DEVICES"))
    try:
        nvml.nvmlInit()
        is_index = isinstance(named, int)
        handle = nvml.nvmlDeviceGetHandleByIndex(named) if is_index else nvml.nvmlDeviceGetHandleByUUID(named)
        return Gpu(nvml, handle, cuda_index, metrics)
    except nvml.NVMLError as error:
        log.warning("the GPU is not measured: %s", error, extra={"gpu": str(named)})
        return None


def nvml_name(cuda_index: int, visible: str | None) -> int | str:
    """NVML's number or UUID of the GPU that is `cuda_index` to CUDA, given `CUDA_VISIBLE_DEVICES`.

    Numbers in there count as NVML does where GPUs are alike, or `CUDA_DEVICE_ORDER` is `PCI_BUS_ID`.
    """
    entries = [entry.strip() for entry in (visible or "").split(",") if entry.strip()]
    if cuda_index >= len(entries):
        return cuda_index
    entry = entries[cuda_index]
    return int(entry) if entry.isdigit() else entry


async def report_gpu(metrics: Metrics, cuda_index: int) -> None:
    """Keep the gauges of a GPU up to date, for ever."""
    gpu = await asyncio.to_thread(open_gpu, metrics, cuda_index)
    while gpu is not None:
        await asyncio.to_thread(gpu.report)
        await asyncio.sleep(INTERVAL_SECONDS)
