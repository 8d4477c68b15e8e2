"""What is said of models in the Open Inference Protocol: metadata, and the configuration in Triton's shape.

Sources: inference_rest.md, Triton's extension_model_configuration.md and model_config.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.manifest import Graph, TensorSpec
from service.engine.transport.messages import ModelStatus
from service.errors import UnsupportedTask
from service.protocols.open_inference.naming import Target, versions_of
from service.settings import Settings

GRAPH_PLATFORM = "onnx_onnxv1"
TEXT_PLATFORM = "hotplate_text"


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output; -1 stands for any size, the first one for the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What clients ask before they send tensors."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


_TEXT_INPUTS = (TensorMetadata("text_input", "BYTES", (1,)),)
_TEXT_OUTPUTS = (TensorMetadata("text_output", "BYTES", (1,)),)


def metadata(target: Target, statuses: tuple[ModelStatus, ...], *, is_one_version: bool) -> ModelMetadata:
    """Describe a model; its versions are those that are ready, or the one that was named.

    Raises: UnsupportedTask for a version of several graphs of which none is the main one.
    """
    versions = (target.model.version,) if is_one_version else versions_of(statuses, target.model.name)
    graph = target.graph
    if graph is None:
        require_text(target)
        return ModelMetadata(target.name, versions, TEXT_PLATFORM, _TEXT_INPUTS, _TEXT_OUTPUTS)
    return ModelMetadata(target.name, versions, GRAPH_PLATFORM, _told(graph.inputs), _told(graph.outputs))


def require_text(target: Target) -> None:
    """Check that what has no graph of its own is a text generator.

    Raises: UnsupportedTask, naming the graphs that can be asked for.
    """
    if not target.writes_text:
        name = target.model.name
        graphs = ", ".join(f"{name}.{graph}" for graph in target.model.manifest.graphs)
        raise UnsupportedTask(f"{name!r} has several graphs and no main one; ask for one of {graphs}.")


def _told(specs: tuple[TensorSpec, ...]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in specs)


def config(target: Target, settings: Settings) -> dict[str, Any]:
    """The configuration as Triton tells one.

    Raises: UnsupportedTask for a version of several graphs of which none is the main one.
    """
    status, manifest = target.model.status, target.model.manifest
    kind = "KIND_GPU" if status.device.startswith("cuda") else "KIND_CPU"
    common = {
        "name": target.name,
        "version_policy": _version_policy(status.config.get("version_policy")),
        "instance_group": [{"name": target.name, "kind": kind, "count": max(status.instances, 1)}],
        "parameters": {"task": {"string_value": manifest.task}},
    }
    graph = target.graph
    if graph is None:
        require_text(target)
        return common | {
            "platform": TEXT_PLATFORM,
            "backend": "hotplate",
            "max_batch_size": 0,
            "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}],
            "model_transaction_policy": {"decoupled": True},
        }
    max_batch_size = min(status.max_batch_size, graph.max_batch_size or status.max_batch_size)
    if not graph.is_batched:
        max_batch_size = 0
    return common | {
        "platform": GRAPH_PLATFORM,
        "backend": "onnxruntime",
        "default_model_filename": graph.file,
        "max_batch_size": max_batch_size,
        "input": [_configured(spec, graph) for spec in graph.inputs],
        "output": [_configured(spec, graph) for spec in graph.outputs],
        **_batching(status, max_batch_size, settings),
    }


def _configured(spec: TensorSpec, graph: Graph) -> dict[str, Any]:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.row_shape if graph.is_batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(dims)}


def _batching(status: ModelStatus, max_batch_size: int, settings: Settings) -> dict[str, Any]:
    if not max_batch_size:
        return {}
    delay_seconds = status.config.get("max_queue_delay_seconds")
    max_queue_rows = status.config.get("max_queue_rows") or settings.max_queue_rows
    timeout_seconds = status.config.get("request_timeout_seconds") or settings.request_timeout_seconds
    return {
        "dynamic_batching": {
            "preferred_batch_size": [size for size in status.buckets if size <= max_batch_size],
            "max_queue_delay_microseconds": round(
                1e6 * (settings.max_queue_delay_seconds if delay_seconds is None else delay_seconds)
            ),
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(1e6 * timeout_seconds),
                "allow_timeout_override": True,
                "max_queue_size": max_queue_rows,
            },
        },
        "response_cache": {"enable": bool(status.config.get("cache_bytes"))},
    }


def _version_policy(policy: Any) -> dict[str, Any]:
    """Triton's form of a policy: `all`, the latest few, or some that are named."""
    if policy == "all":
        return {"all": {}}
    if isinstance(policy, dict) and policy.get("specific"):
        return {"specific": {"versions": [int(version) for version in policy["specific"]]}}
    latest = policy.get("latest") if isinstance(policy, dict) else None
    return {"latest": {"num_versions": latest or 1}}
