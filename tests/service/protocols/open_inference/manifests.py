"""Manifests that exist in memory only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from models.manifest import Batching, Graph, Manifest, TensorSpec
from service.protocols.open_inference.description import Target
from service.protocols.open_inference.inputs import ModelInputs


def graph_of(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...] = (), *, is_batched: bool = True) -> Graph:
    """A graph with this signature."""
    return Graph(file="g.onnx", sha256="0" * 64, inputs=inputs, outputs=outputs, is_batched=is_batched)


def manifest_of(task: Any, graphs: tuple[str, ...]) -> Manifest:
    """A version with these graphs."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
    return Manifest(
        name="m",
        version="1",
        task=task,
        description="",
        graphs={name: graph_of((spec,), (spec,)) for name in graphs},
        labels=("a", "b", "c") if task == "image-generation" else None,
        batching=Batching(max_batch_size=4, buckets=(4,)),
    )


ANY_MODEL = ModelInputs(Target(SimpleNamespace(manifest=SimpleNamespace(graphs={})), ""), 64)  # type: ignore[arg-type]
"""Takes whatever tensors a request holds."""
