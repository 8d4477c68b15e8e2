"""Which outputs of a graph are wanted, and the engine's arrays as the tensors that answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Graph, TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.reply import classify
from service.protocols.open_inference.request import WantedOutput
from service.protocols.open_inference.tensors import Tensor
from service.schema import shown


def wanted_outputs(graph: Graph, asked: tuple[WantedOutput, ...]) -> tuple[WantedOutput, ...]:
    """The outputs that are asked for; without any, all of the graph.

    Raises: InvalidParameter for an output that the graph does not have, or one that is asked for twice.
    """
    if not asked:
        return tuple(WantedOutput(name=spec.name) for spec in graph.outputs)
    names = [spec.name for spec in graph.outputs]
    for at, output in enumerate(asked):
        if output.name not in names or output.name in [earlier.name for earlier in asked[:at]]:
            why = "asked for twice" if output.name in names else "unknown"
            raise InvalidParameter(
                f"The output {shown(output.name)} is {why}; the model has {', '.join(map(shown, names))}.",
                parameter="outputs",
            )
    return asked


def answer_outputs(
    graph: Graph,
    wanted: Sequence[WantedOutput],
    arrays: Mapping[str, NDArray[Any]],
    labels: Sequence[str] | None,
) -> tuple[tuple[WantedOutput, Tensor], ...]:
    """The tensors in the order asked for; the best classes in the place of scores, with the labels that fit them.

    Raises: InvalidParameter where classes are wanted of what holds no scores.
    """
    specs = {spec.name: spec for spec in graph.outputs}
    answers = []
    for output in wanted:
        tensor = _tensor(specs[output.name], arrays[output.name])
        if output.num_classes:
            is_labelled = labels is not None and tensor.shape[-1:] == (len(labels),)
            tensor = classify(tensor, output.num_classes, labels if is_labelled else None)
        answers.append((output, tensor))
    return tuple(answers)


def _tensor(spec: TensorSpec, array: NDArray[Any]) -> Tensor:
    if spec.datatype == "BYTES":
        raw: bytes | memoryview = pack_strings(array.reshape(-1).tolist())
    else:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return Tensor(spec.name, spec.datatype, array.shape, raw)
