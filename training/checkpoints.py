"""The checkpoint of a run: where it lies, how it is written, and whether a run may begin or go on in a folder.

It knows nothing of what a run keeps in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_FILE = "checkpoint.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the whole state, atomically."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def open_run(restore: Callable[[Path], None], output: Path, *, resume: bool) -> None:
    """Make the run folder, and restore its checkpoint when asked to.

    Raises: ValueError when a checkpoint would be overwritten, or is of a run with other settings.
    """
    checkpoint = output / CHECKPOINT_FILE
    output.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.exists():
        restore(checkpoint)
    elif checkpoint.exists():
        raise ValueError(f"{checkpoint} exists; add --resume to continue that run, or choose another --output.")
