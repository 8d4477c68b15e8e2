"""What every export shares: the ONNX writer, the comparison with torch, lineage, the manifest, and the atomic move.

It knows neither how weights were trained nor how they are served. Exporter facts: torch.onnx documentation (dynamo
exporter, torch 2.13).
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from models.golden import Golden, Tensors, largest_error, write_golden
from models.manifest import (
    Batching,
    Datatype,
    Evaluation,
    Graph,
    Manifest,
    Parity,
    TensorSpec,
    Training,
    sha256_hex,
    write_manifest,
)
from training.settings import Settings

# Relative to this file, not to the working folder: a run exports to the checkout it was started from.
DEFAULT_REPOSITORY = Path(__file__).parent.parent.parent / "models" / "repository"
# Of graphs that torch traces; those that are built by hand choose their own.
OPSET = 20
# Of outputs of about one. Float32 sums in another order differ by some 1e-6; a wrong operator, by far more than this.
MAX_PARITY_ERROR = 1e-4
# Rounding to a level may go either way where torch and ONNX Runtime differ in the last place.
MAX_LEVELS = 1
# The batch sizes that the service warms up: it fills a batch up to the next of them.
BUCKETS = (1, 2, 4, 8, 16, 32)
_LIBRARIES = ("torch", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime")
_DATATYPES: dict[str, Datatype] = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64"}


class ExportError(RuntimeError):
    """The exported graph does not do what the network does."""


# Where a version comes from.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a version says of itself beyond its graphs; labels and what follows are those of image data sets."""

    name: str
    version: str
    task: str
    description: str
    evaluation: tuple[Evaluation, ...]
    training: Training
    labels: tuple[str, ...] | None = None
    light_on_dark: bool = False
    margin: float = 0.0


def lineage(
    script: str,
    config: Settings,
    network: nn.Module,
    *,
    dataset_sha256: str,
    seconds: float,
    device: torch.device,
    libraries: Sequence[str] = (),
    **extra: Any,
) -> Training:
    """Say how a run can be repeated: settings, data, code, libraries, machine. `extra` joins the settings."""
    return Training(
        script=f"training.{script}",
        config=config.to_json() | extra,
        seed=config.seed,
        dataset_sha256=dataset_sha256,
        commit=commit_of(Path(__file__).parent),
        seconds=round(seconds, 1),
        device=describe_device(device),
        parameters=num_parameters(network),
        libraries=library_versions((*_LIBRARIES, *libraries)),
    )


def num_parameters(network: nn.Module) -> int:
    """Count the trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def commit_of(folder: Path) -> str:
    """Name the commit checked out in `folder`: `+dirty` when tracked files differ, `unknown` outside a checkout."""
    try:
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
        # A figure of uncommitted code cannot be measured again, and says so.
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def library_versions(names: Iterable[str]) -> dict[str, str]:
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


# Graphs, traced by torch.


def write_module(
    served: nn.Module,
    examples: dict[str, torch.Tensor],
    dynamic_axes: dict[str, dict[int, Any]],
    output_names: Sequence[str],
    path: Path,
) -> None:
    """Write a module as one ONNX file; `examples` are its arguments by name, in order, each of two rows or more.

    `dynamic_axes` gives a `torch.export.Dim` for every axis of an argument that may have any size. An axis of size one
    is taken for a constant, so examples have two rows.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of packages that are not there
    with warnings.catch_warnings():
        # torch.export uses a deprecated part of its own pytree module.
        warnings.simplefilter("ignore", FutureWarning)
        # Inputs that share an axis share its name, of which the exporter warns.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        # Traced by torch.export: the module runs once with symbols for the free axes, and what depends on a size is
        # checked for all sizes.
        program = torch.onnx.export(
            served,
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=list(output_names),
            dynamic_shapes=dynamic_axes,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program.")
    model = program.model_proto
    # The exporter notes the lines and the files of this machine that every node comes from.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    path.write_bytes(model.SerializeToString())


# The comparison with torch: a graph that does something else than the network must never ship.


@torch.no_grad()
def run_torch(served: nn.Module, inputs: Tensors, output_names: Sequence[str]) -> Tensors:
    """Run a module on the arrays of a graph's inputs, in their order; one array by output name."""
    # The arrays go in by position: graphs and modules have their arguments in one order.
    outputs = served(*(torch.from_numpy(array) for array in inputs.values()))
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: tensor.numpy() for name, tensor in zip(output_names, tensors, strict=True)}


def open_graph(path: Path, *, unrounded: bool = False, num_threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU; `unrounded` adds an output: what the graph rounds, which shows differences sooner.

    Raises: ExportError when ONNX Runtime refuses it.
    """
    model = onnx.load(path)
    if unrounded:
        # The bytes of two pictures may be equal where their floats are not: before rounding, a difference shows
        # whatever the level.
        rounding = next(node for node in model.graph.node if node.op_type == "Round")
        model.graph.output.append(onnx.helper.make_tensor_value_info(rounding.input[0], onnx.TensorProto.FLOAT, None))
    return open_model(model if unrounded else path, path.name, num_threads)


def open_model(
    model: onnx.ModelProto | Path, name: str = "a graph", num_threads: int = 0
) -> onnxruntime.InferenceSession:
    """Open a model or a file of one on the CPU.

    Raises: ExportError when ONNX Runtime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    # Spinning threads would take the processor from whatever trains beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime refuses {name}: {error}.") from error


def run_graph(session: onnxruntime.InferenceSession, inputs: Tensors, what: str) -> list[NDArray[Any]]:
    """Run a graph; `what` says for an error which one, and on what.

    Raises: ExportError.
    """
    try:
        return list(session.run(None, inputs))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"{what}: the graph does not run: {error}.") from error


def compute_alone(session: onnxruntime.InferenceSession, inputs: Tensors) -> Tensors:
    """Compute golden rows, each by itself, and compare them with what they give in a batch beside extreme ones.

    Raises: ExportError where they differ.
    """
    names, num_rows = [output.name for output in session.get_outputs()], len(next(iter(inputs.values())))
    alone = [
        run_graph(session, {name: array[row : row + 1] for name, array in inputs.items()}, "one row")
        for row in range(num_rows)
    ]
    expected = {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*alone, strict=True), strict=True)}
    company = {name: np.concatenate([array, *_extremes(array[:1])]) for name, array in inputs.items()}
    for name, array in zip(names, run_graph(session, company, "a batch"), strict=True):
        if (error := largest_error(expected[name], array[:num_rows])) > MAX_PARITY_ERROR:
            raise ExportError(f"rows of {name} differ by {error:.2g} in a batch; valid is {MAX_PARITY_ERROR} at most.")
    return expected


def _extremes(row: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A row of the least values, and one of the largest bytes, the same labels, or fractions far from the usual."""
    high = np.full_like(row, 255) if row.dtype == np.uint8 else row * (100 if row.dtype.kind == "f" else 1)
    return np.zeros_like(row), high


@dataclass(slots=True)
class ParityCheck:
    """Compares what graphs give with what torch gives; `worst` is the largest difference that was let pass."""

    worst: float = 0.0

    def compare(self, what: str, expected: NDArray[Any], actual: NDArray[Any], *, relative: bool = False) -> None:
        """Compare one output: bytes as levels, all else by its largest difference.

        A `relative` difference is a part of one plus the value's magnitude, for sums that grow with the picture.

        Raises: ExportError.
        """
        # A NaN or another shape is an infinite error: no limit lets it pass.
        error = (_relative_error if relative else largest_error)(expected, actual)
        if expected.dtype == np.uint8:
            if error > MAX_LEVELS:
                text = f"{what} differs from torch by {error:.0f} levels of 255; valid is {MAX_LEVELS} at most."
                raise ExportError(text)
            return
        if error > MAX_PARITY_ERROR:
            raise ExportError(f"{what} differs from torch by {error:.2g}; valid is {MAX_PARITY_ERROR} at most.")
        self.worst = max(self.worst, error)


def _relative_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    if expected.dtype == np.uint8 or expected.shape != actual.shape:
        return largest_error(expected, actual)
    return largest_error(expected / (1 + np.abs(expected)), actual / (1 + np.abs(expected)))


# The version folder.


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target` that takes its place when the block ends without an error.

    The move is a rename, which a service that watches the repository sees as one change.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename does not cross from one file system to another.
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes folders private
        # Two renames: between them there is no version for a moment, but never half a one.
        if target.exists():
            retired = scratch.with_name(scratch.name + "-old")
            target.rename(retired)
            os.replace(scratch, target)
            shutil.rmtree(retired)
        else:
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def changed_folder(folder: Path) -> Iterator[Path]:
    """Yield a copy of a folder that takes its place when the block ends without an error."""
    with replaced_folder(folder) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        yield scratch


def describe_graphs(
    folder: Path,
    goldens: Mapping[str, Golden],
    *,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Graph]:
    """Describe `<name>.onnx` for each golden, whose rows have the graph's signature.

    The first axis is the batch. `free_axes` are further axes of any size by tensor; `limits` are limits by graph.
    """

    def specs(tensors: Tensors) -> tuple[TensorSpec, ...]:
        return tuple(_spec(name, tensor, (free_axes or {}).get(name, ())) for name, tensor in tensors.items())

    return {
        name: Graph(
            file=f"{name}.onnx",
            sha256=sha256_hex((folder / f"{name}.onnx").read_bytes()),
            inputs=specs(golden.inputs),
            outputs=specs(golden.outputs),
            **((limits or {}).get(name, {})),
        )
        for name, golden in goldens.items()
    }


def _spec(name: str, tensor: NDArray[Any], free: Sequence[int]) -> TensorSpec:
    # -1 stands for any size in the manifest; golden rows have real sizes.
    shape = tuple(-1 if axis == 0 or axis in free else size for axis, size in enumerate(tensor.shape))
    return TensorSpec(name=name, datatype=_DATATYPES[str(tensor.dtype)], shape=shape)


def write_version(
    folder: Path,
    card: ModelCard,
    graphs: dict[str, Graph],
    goldens: dict[str, Golden],
    parity: Parity,
    *,
    buckets: tuple[int, ...] = BUCKETS,
    **members: Any,
) -> None:
    """Write golden rows and the manifest beside the graphs; `members` are the manifest's own to a task."""
    write_golden(folder, goldens)
    manifest = Manifest(
        name=card.name,
        version=card.version,
        task=card.task,
        description=card.description,
        graphs=graphs,
        batching=Batching(max_batch_size=buckets[-1], buckets=buckets),
        labels=card.labels,
        light_on_dark=card.light_on_dark,
        margin=card.margin,
        evaluation=card.evaluation,
        training=card.training,
        parity=parity,
        **members,
    )
    write_manifest(folder, manifest)
