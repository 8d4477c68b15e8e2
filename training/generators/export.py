"""Writes a generator's version: its graphs, their parity with torch and among batch sizes, golden I/O, the manifest.

It owns the batch sizes that a version states. It knows neither how the weights were trained nor how they are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from models.golden import Golden, Tensors, write_golden
from models.manifest import Batching, Graph, Manifest, Parity, TensorSpec, sha256_hex, write_manifest
from training.export import ModelCard, datatype_of, replaced_folder
from training.generators.graphs import NUM_SAMPLES, RECONSTRUCTION, write_generator_graph
from training.generators.parity import (
    PARITY_BATCH_SIZES,
    Rows,
    check_generator_parity,
    check_rows_alike,
    open_graph,
    run_wrapper,
)

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# A row of this graph decodes one latent a sample, and the mean.
MAX_BATCH_SIZES = {RECONSTRUCTION: 16}
_NUM_GOLDEN_ROWS = 8


def export_generator(graphs: Mapping[str, nn.Module], rows: Rows, card: ModelCard, repository: Path) -> Path:
    """Export graphs as a version folder in `repository`, replacing that version if it is there; returns it.

    Raises: ExportError when a graph and torch disagree, or a row's result depends on its batch.
    """
    with replaced_folder(repository / card.name / card.version) as folder:
        worst = 0.0
        for graph, wrapper in graphs.items():
            path = folder / f"{graph}.onnx"
            examples = {name: torch.from_numpy(array) for name, array in rows.inputs(graph, NUM_SAMPLES).items()}
            write_generator_graph(wrapper, graph, examples, path)
            session = open_graph(path, graph)
            worst = max(worst, check_generator_parity(wrapper, graph, session, rows))
            check_rows_alike(graph, session, rows, MAX_BATCH_SIZES.get(graph, BUCKETS[-1]))
        golden = golden_rows(graphs, rows)
        write_golden(folder, golden)
        write_manifest(folder, _manifest(card, golden, folder, worst))
    return repository / card.name / card.version


def golden_rows(graphs: Mapping[str, nn.Module], rows: Rows) -> dict[str, Golden]:
    """Run every graph in torch on a few rows."""
    inputs = {graph: rows.inputs(graph, _NUM_GOLDEN_ROWS) for graph in graphs}
    return {graph: Golden(inputs[graph], run_wrapper(graphs[graph], graph, inputs[graph])) for graph in graphs}


def _manifest(card: ModelCard, golden: dict[str, Golden], folder: Path, error: float) -> Manifest:
    return Manifest(
        name=card.name,
        version=card.version,
        task="image-generation",
        description=card.description,
        graphs={graph: _graph(graph, rows, folder) for graph, rows in golden.items()},
        batching=Batching(max_batch_size=BUCKETS[-1], buckets=BUCKETS),
        labels=card.labels,
        light_on_dark=card.light_on_dark,
        margin=card.margin,
        evaluation=card.evaluation,
        training=card.training,
        parity=Parity(max_abs_error=error, batch_sizes=PARITY_BATCH_SIZES),
    )


def _graph(graph: str, golden: Golden, folder: Path) -> Graph:
    file = f"{graph}.onnx"
    return Graph(
        file=file,
        sha256=sha256_hex((folder / file).read_bytes()),
        inputs=_specs(golden.inputs),
        outputs=_specs(golden.outputs),
        max_batch_size=MAX_BATCH_SIZES.get(graph),
    )


def _specs(tensors: Tensors) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, tensor) for name, tensor in tensors.items())


def _spec(name: str, tensor: NDArray[Any]) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype_of(tensor), shape=(-1, *tensor.shape[1:]))
