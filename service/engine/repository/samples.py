"""Rows to warm and to measure a graph with: the golden ones, or larger ones made of them where rows vary in size.

Golden rows of such graphs are small, and what they cost says little of real ones. It knows no queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.golden import Golden
from models.manifest import Graph
from service.engine.batching.rows import RowRules, RowShapes, num_elements
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.instance import Runner
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed, InvalidParameter

# The size that varying axes are brought to, as far as whole repetitions of the golden rows come.
USUAL_SIZE = 256
# Of one row over all inputs: a graph with many varying axes would otherwise be given more than there is memory.
MAX_ELEMENTS = 2**22


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of all inputs of one shape."""

    rows: Golden
    row_shapes: RowShapes

    def inputs(self, num_rows: int) -> Arrays:
        """The rows, cycled until there are `num_rows` of them."""
        return {name: np.ascontiguousarray(array) for name, array in self.rows.repeated(num_rows).inputs.items()}


def golden_sample(golden: Golden, graph: Graph, rules: RowRules) -> Sample:
    """The golden rows as they are.

    Raises: VersionRejected where they do not fit the graph's signature.
    """
    if set(golden.inputs) != {s.name for s in graph.inputs} or set(golden.outputs) != {s.name for s in graph.outputs}:
        raise VersionRejected("golden.npz does not name the graph's inputs and outputs.")
    row_shapes = _row_shapes(golden, graph)
    try:
        rules.check(row_shapes)
    except InvalidParameter as error:
        raise VersionRejected(f"golden.npz does not fit the graph: {error.message}") from error
    return Sample(golden, row_shapes)


def usual_sample(golden: Sample, graph: Graph, rules: RowRules, runner: Runner) -> Sample:
    """The golden rows, repeated along every axis that varies as often as the graph takes them; at worst once."""
    for times in range(_most_repetitions(golden.row_shapes, rules), 1, -1):
        repetitions = [tuple(times if size < 0 else 1 for size in spec.row_shape) for spec in rules.inputs]
        shapes = tuple(
            tuple(size * n for size, n in zip(*each, strict=True))
            for each in zip(golden.row_shapes, repetitions, strict=True)
        )
        if num_elements(shapes) > MAX_ELEMENTS:
            continue
        inputs = {
            spec.name: np.tile(golden.rows.inputs[spec.name], (1, *each))
            for spec, each in zip(rules.inputs, repetitions, strict=True)
        }
        rows = Golden(inputs, {})
        sample = Sample(rows, _row_shapes(rows, graph))
        try:
            rules.check(sample.row_shapes)
            runner.run(sample.inputs(1), 1, [spec.name for spec in graph.outputs])
        except (InvalidParameter, InferenceFailed):
            continue
        return sample
    return golden


def _most_repetitions(row_shapes: RowShapes, rules: RowRules) -> int:
    sizes = [
        size
        for spec, shape in zip(rules.inputs, row_shapes, strict=True)
        for wanted, size in zip(spec.row_shape, shape, strict=True)
        if wanted < 0
    ]
    return max(1, USUAL_SIZE // max(sizes, default=USUAL_SIZE))


def _row_shapes(golden: Golden, graph: Graph) -> RowShapes:
    return tuple(golden.inputs[spec.name].shape[1:] for spec in graph.inputs)
