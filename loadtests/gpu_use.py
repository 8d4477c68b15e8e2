"""Watches how busy a GPU is, through `nvidia-smi`, while something else is measured.

It knows nothing of what keeps the GPU busy. Source: `nvidia-smi --help-query-gpu`.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean

_QUERY = "utilization.gpu,memory.used"
_PERIOD_MS = 200


@dataclass(frozen=True, slots=True)
class Use:
    """One look at the GPU."""

    percent: float
    memory_mib: float


@dataclass(slots=True)
class Watch:
    """The looks taken so far; empty where there is no `nvidia-smi`."""

    looks: list[Use] = field(default_factory=list)

    def since(self, position: int) -> dict[str, float | None]:
        """The mean use and the largest memory since `position`, an earlier length of `looks`."""
        seen = self.looks[position:]
        return {
            "gpu_percent": mean(look.percent for look in seen) if seen else None,
            "gpu_memory_mib": max(look.memory_mib for look in seen) if seen else None,
        }


def describe_card(device_index: int = 0) -> str | None:
    """The card's name, its memory and the driver's version; None where there is no `nvidia-smi`."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    options = [f"--id={device_index}", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run([path, *options], capture_output=True, text=True, timeout=30)
    return done.stdout.strip() or done.stderr.strip() or None


def parse_use(line: str) -> Use | None:
    """Read a line such as `87, 1024`; None where the driver does not tell (`[N/A]`)."""
    percent, _, memory_mib = line.partition(",")
    try:
        return Use(float(percent), float(memory_mib))
    except ValueError:
        return None


def _collect(lines: Sequence[str] | Iterator[str], watch: Watch) -> None:
    watch.looks.extend(use for line in lines if (use := parse_use(line)) is not None)


@contextlib.contextmanager
def watching(device_index: int = 0) -> Iterator[Watch]:
    """Look at the GPU five times a second until the block ends."""
    watch, path = Watch(), shutil.which("nvidia-smi")
    if path is None:
        yield watch
        return
    options = [f"--id={device_index}", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", f"-lms={_PERIOD_MS}"]
    process = subprocess.Popen([path, *options], stdout=subprocess.PIPE, text=True, start_new_session=True)

    def read() -> None:
        for line in process.stdout or ():
            _collect([line], watch)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield watch
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=5)
