"""Compares random rows of a graph: whether what a row gives depends on who shares its batch, on its place, or its size.

What a graph does for some values only, `row_mixing.py` looks for.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import TensorSpec, from_bf16

Arrays = dict[str, NDArray[Any]]

# The kinds of values that rows are made of. Numbers with a fraction: their scale, and their sign where it is the same
# for all; whole numbers, which are often places in a table: from, to.
FRACTIONS = ((1.0, 0), (1.0, 1), (30.0, 0), (30.0, -1), (1e-3, 0), (1e4, 0), (1e4, -1), (1e4, 1))
WHOLES = ((0, 2), (1, 2), (0, 10), (0, 100), (-5, 5), (0, 256), (0, 1000), (0, 30_000))
# Rows of the largest batch that is tried.
MOST_ROWS = 5
# From the begin of the trials on.
PROOF_SECONDS = 1.0
# The same row at the same place of a batch of the same size, beside others: by this part of its largest value.
ROUNDING = {"FP32": 1e-6, "FP64": 1e-12, "FP16": 2e-3, "BF16": 2e-2}
# At another place, or in a batch of another size, kernels add up in another order.
REORDERING = {"FP32": 1e-3, "FP64": 1e-6, "FP16": 2e-2, "BF16": 5e-2}
# Where rows were the same bit for bit whoever shared their batch, a batch of another size may differ by this.
SHARP_REORDERING = 0.05
# What the last bit of the inputs does to the outputs, or leaving out optimisations, times this is rounding as well.
SENSITIVITY = 16


# --- rows ---


def values(spec: TensorSpec, shape: tuple[int, ...], kind: int, random: np.random.Generator) -> NDArray[Any]:
    """Random values of a kind, as far as the datatype holds them."""
    if spec.datatype == "BYTES":
        return np.full(shape, "text", object)
    if spec.datatype == "BOOL":
        return np.asarray(random.integers(0, 2, shape)).astype(np.bool_)
    if spec.datatype == "BF16" or spec.dtype.kind == "f":
        scale, sign = FRACTIONS[kind % len(FRACTIONS)]
        numbers = np.asarray(random.normal(size=shape) * scale)
        numbers = np.asarray(np.abs(numbers) * sign if sign else numbers)
        if spec.datatype == "BF16":
            return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return numbers.astype(spec.dtype)
    low, high = WHOLES[kind % len(WHOLES)]
    bounds = np.iinfo(spec.dtype)
    return np.asarray(random.integers(max(low, bounds.min), min(high, bounds.max + 1), shape)).astype(spec.dtype)


def row(specs: tuple[TensorSpec, ...], shapes: dict[str, tuple[int, ...]], kind: int, seed: int) -> Arrays:
    """Random inputs of these shapes."""
    random = np.random.default_rng(seed)
    return {spec.name: values(spec, shapes[spec.name], kind, random) for spec in specs}


# --- comparing ---


class Computes(Protocol):
    """A graph that computes whole tensors; `began` is when its trials did."""

    began: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Arrays) -> Arrays:
        """Compute."""

    def run_plain(self, feed: Arrays) -> Arrays:
        """Compute without optimisations, which rounds in other places."""


def is_shortage(error: Exception) -> bool:
    """Whether memory could not be had."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "allocate memory"))


class Dependent(Exception):
    """Rows are not independent; the message says how that showed."""


class Proof:
    """Compares rows in different companies, at different places, and in batches of different sizes."""

    def __init__(self, graph: Computes, shapes: dict[str, tuple[int, ...]], first_kind: int) -> None:
        self._graph = graph
        self._shapes = shapes
        self._rows: dict[int, tuple[Arrays, Arrays]] = {}
        self._first_kind = first_kind
        self._is_exact = True
        self.num_comparisons = 0

    def check(self) -> None:
        """Compare rows of every kind that the graph computes, the first kind in any case, while time is left.

        Raises: Dependent.
        """
        self._check(self._first_kind)
        for kind in range(len(FRACTIONS)):
            if kind != self._first_kind and time.monotonic() - self._graph.began < PROOF_SECONDS:
                self._check(kind)

    def _check(self, kind: int) -> None:
        a, b = (row(self._graph.inputs, self._shapes, kind, seed) for seed in (1, 2))
        try:
            alone = [self._run(each) for each in (a, b)]
        except Dependent:
            raise
        except Exception:  # values of this kind are no input of the graph
            return
        self._rows[kind] = a, b
        others = [each for rows in self._rows.values() for each in rows][-6:]
        try:
            self._compare(a, b, others, alone)
        except Dependent:
            raise
        except Exception as error:
            if is_shortage(error):
                raise Dependent("comparing its rows took too much memory") from error
            raise Dependent(f"rows that are computed alone fail together: {str(error)[:200]}") from error

    def _compare(self, a: Arrays, b: Arrays, others: list[Arrays], alone: list[Arrays]) -> None:
        together, usual = self._run(a, b), self._rows[self._first_kind]
        if usual[0] is not a:
            beside = _at(self._run(usual[0], a), 0)
            self._same("who shares its batch", _at(self._run(*usual), 0), beside, ROUNDING)
        for other in others:
            if other is not b:
                self._same("who shares its batch", _at(together, 0), _at(self._run(a, other), 0), ROUNDING)
        swapped = self._run(b, a)
        for kind, left, right in (
            ("its place in the batch", _at(together, 0), _at(swapped, 1)),
            ("its place in the batch", _at(together, 1), _at(swapped, 0)),
            ("the size of the batch", _at(together, 0), alone[0]),
            ("the size of the batch", _at(together, 1), alone[1]),
        ):
            self._same(kind, left, right, REORDERING, a if right is not alone[1] else b)
        rest = [*others, b, b][: MOST_ROWS - 2]
        many, others_of_one = self._run(b, a, *rest), self._run(b, a, *[b] * len(rest))
        self._same("who shares its batch", _at(many, 1), _at(others_of_one, 1), ROUNDING)

    def _run(self, *rows: Arrays) -> Arrays:
        """Compute rows as a batch.

        Raises: Dependent where it does not return as many.
        """
        feed = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
        outputs = self._graph.run(feed)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != len(rows):
                shape = list(array.shape)
                raise Dependent(f"its output {name!r} has the shape {shape} for {len(rows)} rows, not a row for each")
        return outputs

    def _same(
        self, cause: str, left: Arrays, right: Arrays, tolerances: dict[str, float], source: Arrays | None = None
    ) -> None:
        self.num_comparisons += 1
        for spec in self._graph.outputs:
            one, other = (_numbers(each[spec.name], spec.datatype) for each in (left, right))
            if one.shape != other.shape:
                raise Dependent(f"the shape of a row of its output {spec.name!r} depends on {cause}")
            if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                continue
            if one.dtype.kind == "f":
                self._is_exact &= source is not None
                share = _differ(one, other) / (_largest(one) or 1.0)
                if share <= tolerances[spec.datatype] or (share <= SHARP_REORDERING and source and self._is_exact):
                    continue
                if source is not None and self._is_rounding(spec, one, other, source):
                    continue
            raise Dependent(f"a row of its output {spec.name!r} depends on {cause}")

    def _is_rounding(self, spec: TensorSpec, one: NDArray[Any], other: NDArray[Any], source: Arrays) -> bool:
        """Whether two rows differ no more than a last bit of their inputs makes them differ."""
        moved = dict(source)
        for each in self._graph.inputs:
            if each.dtype.kind == "f":
                moved[each.name] = np.nextafter(source[each.name], np.array(np.inf, each.dtype))
        runs = (self._run(source), self._run(moved), self._graph.run_plain(source))
        before, after, plain = (_numbers(run[spec.name], spec.datatype) for run in runs)
        return _differ(one, other) <= SENSITIVITY * max(_differ(before, after), _differ(before, plain))


def _at(outputs: Arrays, place: int) -> Arrays:
    return {name: array[place : place + 1] for name, array in outputs.items()}


def _numbers(array: NDArray[Any], datatype: str) -> NDArray[Any]:
    if datatype == "BF16":
        return from_bf16(array).astype(np.float64)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _differ(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference; infinite where one is not a number and the other is."""
    with np.errstate(invalid="ignore"):
        differences = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    return float("inf") if np.isnan(differences).any() else float(differences.max(initial=0.0))


def _largest(array: NDArray[Any]) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
