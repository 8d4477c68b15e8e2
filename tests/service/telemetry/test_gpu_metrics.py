"""GPU gauges through the real nvidia-ml-py: without a driver, without the library, and with a driver made of Python."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry.gpu_metrics import nvml_name, open_gpu, report_gpu
from service.telemetry.metrics import Metrics

pynvml: Any = importlib.import_module("pynvml")
UUID = "GPU-5b3a1c2e"
OK, NOT_SUPPORTED = 0, 3


class Driver:
    """What nvidia-ml-py calls of libnvidia-ml.so: C functions that write through pointers and return a status."""

    def __init__(self, *, is_mig: bool = False) -> None:
        self.is_mig = is_mig
        self.opened: list[object] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        functions: dict[str, Callable[..., int]] = {
            "nvmlInitWithFlags": lambda _flags: OK,
            "nvmlDeviceGetHandleByIndex_v2": self._open,
            "nvmlDeviceGetHandleByUUID": self._open,
            "nvmlDeviceGetUUID": self._uuid,
            "nvmlDeviceGetUtilizationRates": self._utilization,
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetPowerUsage": self._power,
        }
        if name not in functions:
            raise AttributeError(name)
        return functions[name]

    def _open(self, name: Any, _handle: Any) -> int:
        self.opened.append(getattr(name, "value", name))
        return OK

    def _uuid(self, _handle: Any, text: Any, _size: Any) -> int:
        text.value = UUID.encode()
        return OK

    def _utilization(self, _handle: Any, rates: Any) -> int:
        if self.is_mig:
            return NOT_SUPPORTED
        rates._obj.gpu, rates._obj.memory = 37, 12
        return OK

    def _memory(self, _handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free, memory._obj.used = 80 * 2**30, 70 * 2**30, 10 * 2**30
        return OK

    def _power(self, _handle: Any, milliwatts: Any) -> int:
        milliwatts._obj.value = 251_500
        return OK


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, whatever this one has."""
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    absent = OSError("libnvidia-ml.so.1: cannot open shared object file")
    load = ctypes.CDLL

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if "nvidia-ml" in str(name):
            raise absent
        return load(name, *arguments, **options)

    monkeypatch.setattr(pynvml, "CDLL", refuse)


def value(metrics: Metrics, name: str, gpu: str = "0") -> float | None:
    return metrics.registry.get_sample_value(f"hotplate_gpu_{name}", {"gpu": gpu, "uuid": UUID})


def test_without_a_driver_nothing_is_measured(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    assert open_gpu(metrics, 0, {}) is None
    asyncio.run(report_gpu(metrics, 0))  # returns: there is nothing to keep up to date

    assert "the GPU is not measured" in caplog.text
    assert not any("gpu" in s.name for family in metrics.registry.collect() for s in family.samples)


def test_without_the_library_nothing_is_measured(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    caplog.set_level(logging.INFO)

    assert open_gpu(metrics, 0, {}) is None
    assert "nvidia-ml-py is not installed" in caplog.text


def test_the_gauges_are_what_the_driver_says(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", driver := Driver())

    gpu = open_gpu(metrics, 1, {})
    assert gpu is not None
    gpu.report()

    assert driver.opened == [1]
    assert value(metrics, "utilization_ratio", "1") == 0.37
    assert value(metrics, "memory_used_bytes", "1") == 10 * 2**30
    assert value(metrics, "memory_bytes", "1") == 80 * 2**30
    assert value(metrics, "power_watts", "1") == 251.5


def test_what_a_gpu_cannot_tell_is_left_out(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", driver := Driver(is_mig=True))

    gpu = open_gpu(metrics, 0, {"CUDA_VISIBLE_DEVICES": "MIG-7c1d"})
    assert gpu is not None
    gpu.report()

    assert driver.opened == [b"MIG-7c1d"]
    assert value(metrics, "utilization_ratio") is None
    assert value(metrics, "memory_used_bytes") == 10 * 2**30


@pytest.mark.parametrize(
    ("cuda_index", "visible", "name"),
    [
        (0, None, 0),
        (2, None, 2),
        (0, "", 0),
        (0, "3", 3),
        (1, "3, 5", 5),
        (0, "GPU-5b3a1c2e,GPU-77", UUID),
        (1, "GPU-5b3a1c2e,MIG-77", "MIG-77"),
        (2, "0,1", 2),
    ],
)
def test_cudas_numbers_become_nvmls(cuda_index: int, visible: str | None, name: int | str) -> None:
    assert nvml_name(cuda_index, visible) == name
