"""The device that a training script runs on, by name."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Resolve `auto`; a device that was asked for and is not there is an error.

    Raises: ValueError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device; valid are auto and cpu.")
    return torch.device(name)
