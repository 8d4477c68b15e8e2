"""The device that a training script runs on, by name, and whether compiling pays there."""

from __future__ import annotations

import shutil

import torch
from torch import nn


def choose_device(name: str) -> torch.device:
    """Resolve `auto`; a device that was asked for and is not there is an error.

    Raises: ValueError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device; valid are auto and cpu.")
    return torch.device(name)


def can_compile(network: nn.Module, device: torch.device) -> bool:
    """Whether compiling pays and can be done: not for an LSTM, and on a CPU only with a C++ compiler."""
    if any(isinstance(module, nn.LSTM) for module in network.modules()):
        return False
    return device.type == "cuda" or shutil.which("g++") is not None
