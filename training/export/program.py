"""Exports a program of `torch.export` to ONNX: `python -m training.export.program NETWORK.pt2 MODEL.onnx`.

`hotplate import` runs it. Axes that are open in the program are open in the graph.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import torch
from torch.export.pt2_archive import constants

_OBJECTS = (constants.CUSTOM_OBJ_FILENAME_PREFIX, "opaque_obj_")


def export_program(program_path: Path, path: Path) -> None:
    """Write the ONNX graph of an exported program as one file.

    Raises: ValueError where the program holds pickled objects, which could run any code.
    """
    with zipfile.ZipFile(program_path) as archive:
        objects = [name for name in archive.namelist() if name.rpartition("/")[2].startswith(_OBJECTS)]
    if objects:
        raise ValueError(f"the program holds objects that are no tensors: {', '.join(objects[:3])}")
    # Tensors may lie in the archive as pickles too: torch reads them without running what they say.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    program = torch.export.load(program_path)
    torch.onnx.export(program, (), path, dynamo=True, external_data=False)


if __name__ == "__main__":
    export_program(Path(sys.argv[1]), Path(sys.argv[2]))
