"""Utilisation, memory and power of the engine's GPU, read through NVML where it is available.

NVML numbers GPUs by their position on the bus and ignores `CUDA_VISIBLE_DEVICES`, which CUDA's numbers depend on. A
service without a GPU never imports this.
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
    """One GPU and its gauges; values that it does not report (a MIG instance has no utilisation) are left out."""

    def __init__(self, nvml: Any, handle: Any, index: int, metrics: Metrics) -> None:
        self._nvml = nvml
        self._handle = handle
        labels = (str(index), nvml.nvmlDeviceGetUUID(handle))
        self._utilization = metrics.gpu_utilization_ratio, labels
        self._used = metrics.gpu_memory_used_bytes, labels
        self._total = metrics.gpu_memory_bytes, labels
        self._power = metrics.gpu_power_watts, labels

    def report(self) -> None:
        """Set the gauges to the current values."""
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
    """Open the GPU with this CUDA index; None, and a line in the log, where NVML is not available."""
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
    """NVML's index or UUID of the GPU with this CUDA index, given `CUDA_VISIBLE_DEVICES`.

    The indices in that variable are NVML's where all GPUs are alike, or `CUDA_DEVICE_ORDER` is `PCI_BUS_ID`.
    """
    entries = [entry.strip() for entry in (visible or "").split(",") if entry.strip()]
    if cuda_index >= len(entries):
        return cuda_index
    entry = entries[cuda_index]
    return int(entry) if entry.isdigit() else entry


async def report_gpu(metrics: Metrics, cuda_index: int) -> None:
    """Keep the gauges of a GPU up to date until cancelled."""
    gpu = await asyncio.to_thread(open_gpu, metrics, cuda_index)
    while gpu is not None:
        await asyncio.to_thread(gpu.report)
        await asyncio.sleep(INTERVAL_SECONDS)
