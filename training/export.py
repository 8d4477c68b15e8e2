"""Writes one model version: the ONNX graph, its parity with torch, golden I/O and the manifest.

It owns the export settings and the atomic move into the repository. It knows neither how the weights were trained nor
how they are served. Exporter facts: torch.onnx documentation (dynamo exporter, torch 2.13).
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
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
from training.networks.resnet import INPUT_NAME, OUTPUT_NAMES

DEFAULT_REPOSITORY = Path(__file__).parent.parent / "models" / "repository"
OPSET = 20
PARITY_BATCH_SIZES = (1, 2, 7, 64)
MAX_PARITY_ERROR = 1e-4
BUCKETS = (1, 2, 4, 8, 16, 32)
GRAPH = "model"
GRAPH_FILE = "model.onnx"
_NUM_GOLDEN_ROWS = 8

_DATATYPES: dict[str, Datatype] = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64"}


class ExportError(RuntimeError):
    """The exported graph does not do what the network does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a version says of itself beyond its graph."""

    name: str
    version: str
    description: str
    labels: tuple[str, ...]
    light_on_dark: bool
    margin: float
    evaluation: tuple[Evaluation, ...]
    training: Training


def export_classifier(served: nn.Module, images: NDArray[np.uint8], card: ModelCard, repository: Path) -> Path:
    """Export `served` as a version folder in `repository`, replacing that version if it is there; returns it.

    `images` are real uint8 [B,H,W,C] rows, for parity and golden I/O.

    Raises: ExportError when the graph and torch disagree, or the batch axis is not dynamic.
    """
    served = served.cpu().float().eval()
    with replaced_folder(repository / card.name / card.version) as folder:
        write_graph(served, images[:2], folder / GRAPH_FILE)
        parity = check_parity(served, folder / GRAPH_FILE, images)
        golden = Golden({INPUT_NAME: images[:_NUM_GOLDEN_ROWS]}, run_torch(served, images[:_NUM_GOLDEN_ROWS]))
        write_golden(folder, {GRAPH: golden})
        graph = Graph(
            file=GRAPH_FILE,
            sha256=sha256_hex((folder / GRAPH_FILE).read_bytes()),
            inputs=_specs(golden.inputs),
            outputs=_specs(golden.outputs),
        )
        write_manifest(folder, _manifest(card, graph, parity))
    return repository / card.name / card.version


def write_graph(served: nn.Module, example: NDArray[np.uint8], path: Path) -> None:
    """Write the ONNX graph as one file with a dynamic batch axis; `example` has two rows."""
    batch = {0: torch.export.Dim("batch", min=1)}
    write_module(served, {INPUT_NAME: torch.from_numpy(example)}, {INPUT_NAME: batch}, OUTPUT_NAMES, path)


def write_module(
    served: nn.Module,
    examples: dict[str, torch.Tensor],
    dynamic_axes: dict[str, dict[int, Any]],
    output_names: Sequence[str],
    path: Path,
) -> None:
    """Write a module as one ONNX file; `examples` are its arguments by name, in order, each of two rows or more.

    `dynamic_axes` gives a `torch.export.Dim` for every axis of an argument that may have any size.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of packages that are not there
    with warnings.catch_warnings():
        # torch.export uses a deprecated part of its own pytree module.
        warnings.simplefilter("ignore", FutureWarning)
        # Inputs that share an axis share its name, of which the exporter warns.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
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


def open_exposed(path: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    """Open a graph that gives pictures with one output more: what it rounds."""
    model = onnx.load(path)
    rounding = next(node for node in model.graph.node if node.op_type == "Round")
    model.graph.output.append(onnx.helper.make_tensor_value_info(rounding.input[0], onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_torch(served: nn.Module, images: NDArray[np.uint8]) -> Tensors:
    """Run the torch module; one float32 array by output name."""
    with torch.no_grad():
        outputs = served(torch.from_numpy(images))
    return {name: output.numpy() for name, output in zip(OUTPUT_NAMES, outputs, strict=True)}


def check_parity(
    served: nn.Module, path: Path, images: NDArray[np.uint8], batch_sizes: Sequence[int] = PARITY_BATCH_SIZES
) -> Parity:
    """Compare the graph, on the CPU, with torch at several batch sizes.

    Raises: ExportError when an output differs by more than `MAX_PARITY_ERROR`, or in shape.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in batch_sizes:
        rows = np.resize(images, (size, *images.shape[1:]))
        try:
            outputs = session.run(list(OUTPUT_NAMES), {INPUT_NAME: rows})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ExportError(f"the graph does not run at batch {size}: {error}.") from error
        actual = dict(zip(OUTPUT_NAMES, outputs, strict=True))
        for name, expected in run_torch(served, rows).items():
            deviation = largest_error(expected, actual[name])
            if deviation > MAX_PARITY_ERROR:
                raise ExportError(
                    f"{name} differs by {deviation:.2g} at batch {size}; valid is {MAX_PARITY_ERROR} at most."
                )
            worst = max(worst, deviation)
    return Parity(max_abs_error=worst, batch_sizes=tuple(batch_sizes))


def _specs(tensors: dict[str, NDArray[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, datatype=datatype_of(tensor), shape=(-1, *tensor.shape[1:]))
        for name, tensor in tensors.items()
    )


def datatype_of(tensor: NDArray[Any]) -> Datatype:
    """Name the type of an array that a graph takes or gives."""
    return _DATATYPES[str(tensor.dtype)]


def _manifest(card: ModelCard, graph: Graph, parity: Parity) -> Manifest:
    return Manifest(
        name=card.name,
        version=card.version,
        task="image-classification",
        description=card.description,
        graphs={GRAPH: graph},
        batching=Batching(max_batch_size=BUCKETS[-1], buckets=BUCKETS),
        labels=card.labels,
        light_on_dark=card.light_on_dark,
        margin=card.margin,
        evaluation=card.evaluation,
        training=card.training,
        parity=parity,
    )


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target` that takes its place when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes folders private
        if target.exists():
            retired = scratch.with_name(scratch.name + "-old")
            target.rename(retired)
            os.replace(scratch, target)
            shutil.rmtree(retired)
        else:
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
