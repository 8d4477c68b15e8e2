"""What every export shares: the ONNX writer, the comparison with torch, lineage, the manifest, and the atomic move.

It knows neither how weights were trained nor how they are served. Exporter facts: torch.onnx documentation (dynamo
exporter, torch 2.13).
"""

from __future__ import annotations

import dataclasses
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
from tqdm import tqdm

from models.golden import Golden, Tensors, deviation, write_golden
from models.manifest import (
    MANIFEST_FILE,
    MODEL_NAME,
    VERSION,
    Batching,
    Datatype,
    Evaluation,
    Graph,
    Manifest,
    Parity,
    TensorSpec,
    Training,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from models.versions import add_version, next_version
from training.optimizers import arithmetic
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


# Where a version goes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a run exports to: the version that is named, else the next free one.

    `replace` is what may be overwritten: nothing, a version that scores no "better", or any ("always"). `publish` is a
    repository that gets a copy.
    """

    repository: Path
    name: str
    version: str | None = None
    replace: str | None = None
    publish: Path | None = None

    @property
    def _model(self) -> Path:
        return self.repository / self.name

    def check(self) -> None:
        """Refuse, before hours of training, what could not be written at their end.

        Raises: ValueError.
        """
        if not MODEL_NAME.fullmatch(self.name):
            raise ValueError(
                f"--name is {self.name!r}; a name is of letters, digits, '.', '_' and '-', at most 64, and begins with "
                "a letter or a digit."
            )
        if self.version is not None and not VERSION.fullmatch(self.version):
            raise ValueError(f"--model-version is {self.version!r}; it must be a whole number from 1 on.")
        if self.version is not None and (self._model / self.version).exists() and not self.replace:
            raise ValueError(
                f"{self._model / self.version} exists; leave out --model-version to write version "
                f"{next_version(self._model)}, or add --replace."
            )

    def card(self, card: ModelCard) -> ModelCard:
        """Give a card its version: one that is replaced only after a comparison of scores, which is said."""
        found = self._replaced()
        if found is not None and (self.replace == "always" or _is_no_worse(card.evaluation, found)):
            return dataclasses.replace(card, name=self.name, version=found.name, replaces=True)
        wanted = self.version if self.version and not (self._model / self.version).exists() else None
        return dataclasses.replace(card, name=self.name, version=wanted or next_version(self._model))

    def _replaced(self) -> Path | None:
        if not self.replace:
            return None
        latest = str(int(next_version(self._model)) - 1)
        folder = self._model / (self.version or latest)
        return folder if folder.is_dir() else None

    def finish(self, folder: Path) -> str:
        """Publish the exported version where that is asked for; returns a sentence that says what is where.

        Raises: ExportError when it cannot be copied.
        """
        if self.publish is None:
            return f"exported to {folder}"
        try:
            version = add_version(self.publish / self.name, folder)
        except (OSError, ValueError) as error:
            raise ExportError(f"exported to {folder}, but not published to {self.publish}: {error}.") from error
        return f"exported to {folder}, published as {self.publish / self.name / version}"


def _is_no_worse(new: Sequence[Evaluation], folder: Path) -> bool:
    """Compare what both were measured by, beginning with the first; figures of other data do not compare."""
    try:
        former = {(each.metric, each.dataset, each.split): each.value for each in read_manifest(folder).evaluation}
    except (OSError, ValueError) as error:
        tqdm.write(f"{folder} cannot be read, and is not replaced: {error}")
        return False
    for each in new:
        before = former.get((each.metric, each.dataset, each.split))
        if before is None:
            continue
        is_better_high = each.metric == "accuracy" or each.metric.startswith(("ELBO, nats", "gatys_k"))
        no_worse = each.value >= before if is_better_high else each.value <= before
        verdict = "it is replaced" if no_worse else "it stays, and the new one gets the next version"
        tqdm.write(f"{folder}: {each.metric} ({each.split}) {before:.6g} before, {each.value:.6g} now; {verdict}")
        return no_worse
    tqdm.write(f"{folder} was scored on other data, and stays; the new one gets the next version")
    return False


def find_version(name: Path, repository: Path) -> Path | None:
    """Find what a name means: a version, by its folder, or the latest of a model; None if neither.

    Models are those of the repository, then those that ship.
    """
    models = (repository / name, DEFAULT_REPOSITORY / name)
    candidates = (name, *(model / str(int(next_version(model)) - 1) for model in models))
    return next((each for each in candidates if (each / MANIFEST_FILE).is_file()), None)


# Where a version comes from.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a version says of itself beyond its graphs; labels and what follows are those of image data sets.

    `replaces` allows to overwrite the version.
    """

    name: str
    version: str
    task: str
    description: str
    evaluation: tuple[Evaluation, ...]
    training: Training
    labels: tuple[str, ...] | None = None
    light_on_dark: bool = False
    margin: float = 0.0
    replaces: bool = False


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
        config=config.to_json() | {"precision": arithmetic(config.precision, device)} | extra,
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
        if (error := deviation(expected[name], array[:num_rows])) > MAX_PARITY_ERROR:
            raise ExportError(f"rows of {name} differ by {error:.2g} in a batch; valid is {MAX_PARITY_ERROR} at most.")
    return expected


def _extremes(row: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A row of the least values, and one of the largest bytes, the same labels, or fractions far from the usual."""
    high = np.full_like(row, 255) if row.dtype == np.uint8 else row * (100 if row.dtype.kind == "f" else 1)
    return np.zeros_like(row), high


@dataclass(slots=True)
class ParityCheck:
    """Compares what graphs give with what torch gives; `worst` is the largest deviation that was let pass."""

    worst: float = 0.0

    def compare(self, what: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        """Compare one output: bytes as levels, all else by the `deviation` that the service will judge by.

        Raises: ExportError.
        """
        # A NaN or another shape is an infinite error: no limit lets it pass.
        error = deviation(expected, actual)
        if expected.dtype == np.uint8:
            if error > MAX_LEVELS:
                text = f"{what} differs from torch by {error:.0f} levels of 255; valid is {MAX_LEVELS} at most."
                raise ExportError(text)
            return
        if error > MAX_PARITY_ERROR:
            raise ExportError(f"{what} differs from torch by {error:.2g}; valid is {MAX_PARITY_ERROR} at most.")
        self.worst = max(self.worst, error)


# The version folder.


@contextmanager
def version_folder(repository: Path, card: ModelCard) -> Iterator[Path]:
    """Yield a scratch folder that becomes the version of a card when the block ends without an error.

    Raises: ExportError when the version is there and the card does not replace it.
    """
    target = repository / card.name / card.version
    with replaced_folder(target) as scratch:
        yield scratch
        if target.exists() and not card.replaces:  # another run may have come first
            raise ExportError(f"{target} exists; export to another --model-version, with --resume.")


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
