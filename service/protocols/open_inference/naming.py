"""What a model's name in the Open Inference Protocol stands for: a version and one of its graphs.

`name` is the graph `model` or the only one, `name.graph` any other. Of names that contain each other, the longest that
is known wins. It knows neither requests nor answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.manifest import Graph, Manifest
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import ModelStatus
from service.errors import UnknownModel
from service.schema import shown

MAIN_GRAPH = "model"
TEXT_TASK = "text-generation"
# What a text generator runs by itself, token by token.
_DECODER_GRAPHS = ("decode", "prefill")
_VERSION = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Target:
    """A ready version and the graph that is asked for; `graph_name` is empty where a version is used as a whole."""

    model: ReadyModel
    graph_name: str

    @property
    def graph(self) -> Graph | None:
        """The graph; None of a text generator, or of a version with several graphs and none that is the main one."""
        return self.model.manifest.graphs.get(self.graph_name)

    @property
    def writes_text(self) -> bool:
        """Whether it is a text generator as a whole, not one of its graphs."""
        return self.model.manifest.task == TEXT_TASK and not self.graph_name

    @property
    def name(self) -> str:
        """The name that stands for it."""
        return told_name(self.model.name, self.model.manifest, self.graph_name)


def find(client: EngineClient, name: str, version: str | None) -> Target:
    """Find what is asked for; without a version, the newest that is ready.

    Raises: UnknownModel, ModelNotReady.
    """
    model_name, graph_name = split_name({status.name for status in client.statuses}, name)
    if version and not _VERSION.fullmatch(version):
        raise UnknownModel(f"The version is {shown(version)}; it must be a whole number.")
    model = client.resolve(f"{model_name}@{version}" if version else model_name)
    if not graph_name:
        return Target(model, main_graph(model.manifest))
    known = graph_names(model.manifest)
    if graph_name not in known:
        names = ", ".join(told_name(model.name, model.manifest, known_name) for known_name in known)
        raise UnknownModel(f"There is no model {shown(name)}; of {model.name!r} there are: {names}.")
    return Target(model, graph_name)


def split_name(known: set[str], name: str) -> tuple[str, str]:
    """The model's name and the graph's, which is empty where none is named or the model is not known."""
    if name in known or not known:
        return name, ""
    head, dot, graph_name = name.rpartition(".")
    while dot and head not in known:
        head, dot, _ = head.rpartition(".")
        graph_name = name[len(head) + 1 :]
    return (head, graph_name) if dot else (name, "")


def main_graph(manifest: Manifest) -> str:
    """The graph that a model's bare name stands for; empty where there is none."""
    if manifest.task == TEXT_TASK:
        return ""
    if MAIN_GRAPH in manifest.graphs:
        return MAIN_GRAPH
    return next(iter(manifest.graphs)) if len(manifest.graphs) == 1 else ""


def graph_names(manifest: Manifest) -> list[str]:
    """The graphs that can be asked for, the main one first; of a text generator that is the generator itself."""
    main = main_graph(manifest)
    is_text = manifest.task == TEXT_TASK
    others = [name for name in manifest.graphs if name != main and not (is_text and name in _DECODER_GRAPHS)]
    return [main, *others] if main or is_text else others


def told_name(model: str, manifest: Manifest, graph_name: str) -> str:
    """The name of a graph in the protocol."""
    return model if graph_name == main_graph(manifest) else f"{model}.{graph_name}"


def versions_of(statuses: tuple[ModelStatus, ...], model: str) -> tuple[str, ...]:
    """The ready versions of a model, the oldest first."""
    ready = [status.version for status in statuses if status.name == model and status.state == "ready"]
    return tuple(sorted(ready, key=int))
