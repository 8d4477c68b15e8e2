"""Exports a program of `torch.export` to ONNX: `python -m training.export.program NETWORK.pt2 MODEL.onnx`.

`hotplate import` runs it. Axes that are open in the program are open in the graph.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

__all__ = ["export_program"]


def export_program(program_path: Path, path: Path) -> None:
    """Write the ONNX graph of an exported program as one file."""
    # A .pt2 file holds no pickled code: its graph is JSON, its weights are plain tensors.
    program = torch.export.load(program_path)
    torch.onnx.export(program, (), path, dynamo=True, external_data=False)


if __name__ == "__main__":
    export_program(Path(sys.argv[1]), Path(sys.argv[2]))
