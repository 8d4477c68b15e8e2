"""How the Open Inference Protocol names models and what it says of them: metadata, configuration, statistics.

`name` stands for the graph `model` or the only one, `name.graph` for any other. Of model names that begin a request's
name, the longest one wins. Sources: inference_rest.md, Triton's extension_model_configuration.md,
model_config.proto and extension_statistics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from models.manifest import BLEND_GRAPH, Graph, Manifest, TensorSpec
from models.strict import build
from service import __version__
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import GraphStatistics, ModelStatus
from service.errors import UnknownModel, UnsupportedTask
from service.protocols.open_inference.schema import (
    ConfiguredTensor,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    TensorMetadata,
)
from service.schema import shown
from service.settings import Settings

SERVER = ServerMetadata(
    name="hotplate",
    version=__version__,
    extensions=[
        "binary_tensor_data",
        "classification",
        "generate",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ],
)
MAIN_GRAPH = "model"
TEXT_TASK = "text-generation"
IMAGE_TASK = "image-generation"
TEXT_INPUT, TEXT_OUTPUT = "text_input", "text_output"
GRAPH_PLATFORM = "onnx_onnxv1"
TEXT_PLATFORM = "hotplate_text"
# What a text generator runs by itself, token by token.
_DECODER_GRAPHS = ("decode", "prefill")
_VERSION = re.compile(r"[0-9]{1,18}")
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


# --- Names ---


@dataclass(frozen=True, slots=True)
class Target:
    """A ready version and the requested graph; `graph_name` is empty where a version is used as a whole."""

    model: ReadyModel
    graph_name: str

    @property
    def graph(self) -> Graph | None:
        """The graph; None for a text generator, or a version with several graphs and no main one."""
        return self.model.manifest.graphs.get(self.graph_name)

    @property
    def writes_text(self) -> bool:
        """Whether it is a text generator as a whole, not one of its graphs."""
        return self.model.manifest.task == TEXT_TASK and not self.graph_name

    @property
    def name(self) -> str:
        """Its name in the protocol."""
        return protocol_name(self.model.name, self.model.manifest, self.graph_name)


def find(client: EngineClient, name: str, version: str | None, *, is_request: bool = False) -> Target:
    """Find the version and graph of a name; without a version the default, or for a request the canary in its turn.

    Raises: UnknownModel, ModelNotReady, ModelFailed.
    """
    model_name, graph_name = split_name({status.name for status in client.statuses}, name)
    if version and not _VERSION.fullmatch(version):
        raise UnknownModel(f"The version is {shown(version)}; it must be a whole number.")
    reference = f"{model_name}@{version}" if version else model_name
    model = client.choose(reference) if is_request else client.resolve(reference)
    if not graph_name:
        return Target(model, main_graph(model.manifest))
    known = graph_names(model.manifest)
    if graph_name not in known:
        names = ", ".join(protocol_name(model.name, model.manifest, known_name) for known_name in known)
        raise UnknownModel(f"There is no model {shown(name)}; of {model.name!r} there are: {names}.")
    return Target(model, graph_name)


def split_name(known: set[str], name: str) -> tuple[str, str]:
    """The model's name and the graph's; the graph's is empty where none is named or the model is unknown."""
    if name in known:
        return name, ""
    model = max((each for each in known if name.startswith(f"{each}.")), key=len, default=None)
    return (name, "") if model is None else (model, name[len(model) + 1 :])


def main_graph(manifest: Manifest) -> str:
    """The graph that a model's bare name stands for; empty where there is none."""
    if manifest.task == TEXT_TASK:
        return ""
    if MAIN_GRAPH in manifest.graphs:
        return MAIN_GRAPH
    # A graph that blends labels is another form of an image generator's decoder.
    forms = {BLEND_GRAPH} if manifest.task == IMAGE_TASK else set()
    graphs = [name for name in manifest.graphs if name not in forms]
    return graphs[0] if len(graphs) == 1 else ""


def graph_names(manifest: Manifest) -> list[str]:
    """The graphs that can be requested, the main one first; for a text generator, first the generator itself."""
    main = main_graph(manifest)
    is_text = manifest.task == TEXT_TASK
    others = [name for name in manifest.graphs if name != main and not (is_text and name in _DECODER_GRAPHS)]
    return [main, *others] if main or is_text else others


def protocol_name(model: str, manifest: Manifest, graph_name: str) -> str:
    """The name of a graph in the protocol."""
    return model if graph_name == main_graph(manifest) else f"{model}.{graph_name}"


def require_text(target: Target) -> None:
    """Check that a target without a graph is a text generator.

    Raises: UnsupportedTask, naming the graphs that can be requested.
    """
    if not target.writes_text:
        name = target.model.name
        graphs = ", ".join(f"{name}.{graph}" for graph in target.model.manifest.graphs)
        raise UnsupportedTask(f"{name!r} has several graphs and no main one; use one of {graphs}.")


# --- Metadata ---


def metadata(target: Target, statuses: Iterable[ModelStatus], *, is_one_version: bool) -> ModelMetadata:
    """Describe a model; its versions are those that are ready, or the one that was named.

    Raises: UnsupportedTask for a version with several graphs and no main one.
    """
    versions = (target.model.version,) if is_one_version else _versions(statuses, target.model.name)
    graph = target.graph
    if graph is None:
        require_text(target)
    return ModelMetadata(
        name=target.name,
        versions=versions,
        platform=GRAPH_PLATFORM if graph else TEXT_PLATFORM,
        inputs=_tensors(graph.inputs) if graph else [_text_tensor(TEXT_INPUT)],
        outputs=_tensors(graph.outputs) if graph else [_text_tensor(TEXT_OUTPUT)],
    )


def _versions(statuses: Iterable[ModelStatus], model: str) -> tuple[str, ...]:
    ready = [status.version for status in statuses if status.name == model and status.is_usable]
    return tuple(sorted(ready, key=int))


def _tensors(specs: Iterable[TensorSpec]) -> list[TensorMetadata]:
    return [TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs]


def _text_tensor(name: str) -> TensorMetadata:
    return TensorMetadata(name=name, datatype="BYTES", shape=(1,))


# --- Configuration ---


def config(target: Target, settings: Settings) -> ModelConfig:
    """The configuration in Triton's form.

    Raises: UnsupportedTask for a version with several graphs and no main one.
    """
    status, manifest = target.model.status, target.model.manifest
    kind = "KIND_GPU" if status.device.startswith("cuda") else "KIND_CPU"
    graph = target.graph
    if graph is None:
        require_text(target)
    return ModelConfig(
        name=target.name,
        version_policy=_version_policy(status.config.get("version_policy")),
        instance_group=[{"name": target.name, "kind": kind, "count": max(status.instances, 1)}],
        parameters={"task": {"string_value": manifest.task}},
        **(_text_config() if graph is None else _graph_config(graph, status, settings)),
    )


def _text_config() -> dict[str, Any]:
    return {
        "platform": TEXT_PLATFORM,
        "backend": "hotplate",
        "max_batch_size": 0,
        "input": [ConfiguredTensor(name=TEXT_INPUT, data_type="TYPE_STRING", dims=(1,))],
        "output": [ConfiguredTensor(name=TEXT_OUTPUT, data_type="TYPE_STRING", dims=(1,))],
        "model_transaction_policy": {"decoupled": True},
    }


def _graph_config(graph: Graph, status: ModelStatus, settings: Settings) -> dict[str, Any]:
    max_batch_size = min(status.max_batch_size, graph.max_batch_size or status.max_batch_size)
    if not graph.is_batched:
        max_batch_size = 0
    return {
        "platform": GRAPH_PLATFORM,
        "backend": "onnxruntime",
        "default_model_filename": graph.file,
        "max_batch_size": max_batch_size,
        "input": [_configured(spec, graph) for spec in graph.inputs],
        "output": [_configured(spec, graph) for spec in graph.outputs],
        **(_batching(status, max_batch_size, settings) if max_batch_size else {}),
    }


def _configured(spec: TensorSpec, graph: Graph) -> ConfiguredTensor:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.row_shape if graph.is_batched else spec.shape
    return ConfiguredTensor(name=spec.name, data_type=f"TYPE_{name}", dims=dims)


def _batching(status: ModelStatus, max_batch_size: int, settings: Settings) -> dict[str, Any]:
    delay_seconds = status.config.get("max_queue_delay_seconds")
    if delay_seconds is None:
        delay_seconds = settings.max_queue_delay_seconds
    timeout_seconds = status.config.get("request_timeout_seconds") or settings.request_timeout_seconds
    return {
        "dynamic_batching": {
            "preferred_batch_size": [size for size in status.buckets if size <= max_batch_size],
            "max_queue_delay_microseconds": round(1e6 * delay_seconds),
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(1e6 * timeout_seconds),
                "allow_timeout_override": True,
                "max_queue_size": status.config.get("max_queue_rows") or settings.max_queue_rows,
            },
        },
        "response_cache": {"enable": bool(status.config.get("cache_bytes"))},
    }


def _version_policy(policy: Any) -> dict[str, Any]:
    """Triton's form of a policy: `all`, the latest few, or specific ones."""
    if policy == "all":
        return {"all": {}}
    if isinstance(policy, dict) and policy.get("specific"):
        return {"specific": {"versions": [int(version) for version in policy["specific"]]}}
    latest = policy.get("latest") if isinstance(policy, dict) else None
    return {"latest": {"num_versions": latest or 1}}


# --- Statistics ---


def statistics_of_all(statuses: Iterable[ModelStatus]) -> list[ModelStatistics]:
    """One entry for each ready version and each of its graphs."""
    entries = []
    for status in statuses:
        if status.is_usable:
            manifest = build(Manifest, status.manifest)
            for graph in graph_names(manifest):
                entries.append(_statistics(protocol_name(status.name, manifest, graph), status, graph))
    return entries


def statistics_of(statuses: Iterable[ModelStatus], target: Target, *, is_one_version: bool) -> list[ModelStatistics]:
    """The entries of a model's ready versions, or of the one that was named."""
    return [
        _statistics(target.name, status, target.graph_name)
        for status in statuses
        if status.is_usable
        and status.name == target.model.name
        and (status.version == target.model.version or not is_one_version)
    ]


def _statistics(name: str, status: ModelStatus, graph_name: str) -> ModelStatistics:
    statistics = status.graph_statistics.get(graph_name, GraphStatistics())
    return ModelStatistics(
        name=name,
        version=status.version,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        inference_stats={part: getattr(statistics, part) for part in _DURATIONS},
        response_stats={},
        batch_stats=statistics.batches,
        memory_usage=[],
    )
