"""Where a run comes from: the commit of the checkout, the versions of the libraries, and the device.

It knows nothing about training; it only asks git, the installed packages and torch.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

LIBRARIES = ("torch", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime")


def commit_of(folder: Path) -> str:
    """Name the commit checked out in `folder`: `+dirty` when tracked files differ, `unknown` outside a checkout."""
    try:
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Look up the versions of Python and of those of the named distributions that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_device(device: torch.device) -> str:
    """Describe the device in words: the name of the GPU, or the architecture and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
