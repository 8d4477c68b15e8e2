"""Golden I/O: sample inputs of a graph and the outputs of the trained network and of variants, stored beside it.

It defines the file format (`golden.npz`) and the comparison. It knows neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from models.manifest import GOLDEN_FILE, Precision

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Golden:
    """The inputs of one graph and the outputs that torch computed, row by row.

    `variants` are the outputs that the graph's variants computed, each row by itself, by precision.
    """

    inputs: Tensors
    outputs: Tensors
    variants: dict[str, Tensors] = field(default_factory=dict)

    def repeated(self, num_rows: int) -> Golden:
        """The rows, repeated or cut to exactly `num_rows`."""
        return Golden(_cycle(self.inputs, num_rows), _cycle(self.outputs, num_rows))


def _cycle(tensors: Tensors, num_rows: int) -> Tensors:
    return {name: np.resize(tensor, (num_rows, *tensor.shape[1:])) for name, tensor in tensors.items()}


def write_golden(folder: Path, graphs: dict[str, Golden]) -> None:
    """Write `golden.npz` for the graphs of one version."""
    members: Tensors = {}
    for graph, golden in graphs.items():
        members |= {f"{graph}/input/{name}": tensor for name, tensor in golden.inputs.items()}
        for kind, outputs in {"output": golden.outputs, **golden.variants}.items():
            members |= {f"{graph}/{kind}/{name}": tensor for name, tensor in outputs.items()}
    with (folder / GOLDEN_FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **members)


def read_golden(folder: Path) -> dict[str, Golden]:
    """Read `golden.npz`: one Golden for each graph.

    Raises: OSError; ValueError if the file is not valid.
    """
    graphs: dict[str, Golden] = {}
    for key, tensor in _read_members(folder / GOLDEN_FILE).items():
        graph, kind, name = parts if len(parts := key.split("/")) == 3 else ("", "", "")
        if kind not in ("input", "output", *get_args(Precision)):
            raise ValueError(f"{GOLDEN_FILE} contains {key!r}; keys must be like 'model/input/image'.")
        golden = graphs.setdefault(graph, Golden({}, {}))
        if kind == "input":
            golden.inputs[name] = tensor
            continue
        outputs = golden.outputs if kind == "output" else golden.variants.setdefault(kind, {})
        outputs[name] = tensor
        if not _is_finite(tensor):
            raise ValueError(f"{GOLDEN_FILE} has values in {key!r} that are not finite; nothing can reproduce them.")
    return graphs


def _read_members(file: Path) -> Tensors:
    try:
        with file.open("rb") as opened:  # NumPy does not close a damaged file that it opened
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"{file.name} is not an archive of arrays.")
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file.name} is damaged: {error}.") from error


def largest_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The largest absolute difference; infinite if shapes differ or a value on either side is not finite."""
    if expected.shape != actual.shape or not (_is_finite(expected) and _is_finite(actual)):
        return float("inf")
    if expected.size == 0:
        return 0.0
    return float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max())


def deviation(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """How far outputs are from what they should be: the rule by which an export and the service judge alike.

    Integers differ by whole numbers. Of fractions, a difference counts as a part of one plus the expected magnitude: as
    it is for small values, and relative to large ones, for the last bit of a sum of 15,000 nats is worth 0.001.
    Infinite where shapes differ or a value is not finite.
    """
    error = largest_error(expected, actual)
    if expected.dtype.kind != "f" or not 0 < error < float("inf"):
        return error
    exact = expected.astype(np.float64)
    return float((np.abs(exact - actual) / (1.0 + np.abs(exact))).max())


def _is_finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
