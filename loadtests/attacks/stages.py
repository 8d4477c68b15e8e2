"""The services that attacks are made on: their options, models and keys. It starts none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from loadtests.servers import ROOT, ServerError, shipped_models

ECHO, LOOP, SWELL = "echo", "loop", "swell"
ECHO_ROWS, ECHO_WIDTH = 28, 2**18
HEAD_SECONDS, BODY_SECONDS, WRITE_SECONDS, HANG_SECONDS = 3, 6, 3, 4
BUDGET_BYTES = 160 * 2**20
MAX_CONNECTIONS = 600

_LIMITS = {
    "--header-timeout-seconds": HEAD_SECONDS,
    "--body-timeout-seconds": BODY_SECONDS,
    "--write-timeout-seconds": WRITE_SECONDS,
    "--hang-seconds": HANG_SECONDS,
    "--max-buffered-bytes": BUDGET_BYTES,
    "--max-connections": MAX_CONNECTIONS,
}
_PLAIN = ("--instances", "1", "--threads", "1", "--workers", "1", "--log-level", "info")


@dataclass(frozen=True, slots=True)
class Stage:
    """One service: what it serves of the shipped models and of the bare graphs, further options, keys and scopes."""

    name: str
    shipped: tuple[str, ...] = ("mnist",)
    bare: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()


STAGES = {
    stage.name: stage
    for stage in (
        Stage("open", ("mnist", "novelist", "fashion-vae"), (ECHO,)),
        Stage("controlled", ("mnist",), (ECHO, LOOP, SWELL), ("--model-control", "explicit")),
        Stage(
            "keyed",
            ("mnist", "novelist"),
            options=("--model-control", "explicit", "--access-log"),
            keys=(("alice", "infer"), ("bob", "infer"), ("metrics", "metrics"), ("chief", "admin")),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stage's folder and the options of `hotplate serve` that open it."""

    options: tuple[str, ...]
    repository: Path
    keys: dict[str, str] = field(default_factory=dict)
    keys_file: Path = Path()


def prepare(stage: Stage, folder: Path, root: Path = ROOT) -> Prepared:
    """Write the stage's models and keys into a folder; `root` is the checkout whose service will read them.

    Raises: ServerError where that service makes no keys.
    """
    repository, keys_file = folder / "models", folder / "api-keys"
    repository.mkdir(parents=True)
    for name in stage.bare:
        write_bare(repository, name, _GRAPHS[name]())
    keys = {name: _new_key(name, scope, keys_file, root) for name, scope in stage.keys}
    limits = [str(word) for pair in _LIMITS.items() for word in pair]
    wanted = [*limits, *_PLAIN, "--repository", str(shipped_models(root))]
    wanted += ["--models", ",".join((*stage.shipped, *stage.bare)), *stage.options]
    if keys:
        wanted += ["--api-keys-file", str(keys_file)]
    return Prepared(tuple(known(wanted, root)), repository, keys, keys_file)


def known(options: Sequence[str], root: Path = ROOT) -> Iterator[str]:
    """The options that the service of a checkout has; those that came later are left out with their values."""
    asked = [sys.executable, "-m", "service", "serve", "--help"]
    text = subprocess.run(asked, capture_output=True, text=True, cwd=root, env={"COLUMNS": "250"}, check=False).stdout
    is_known = True
    for word in options:
        if word.startswith("--"):
            is_known = f"{word} " in text
        if is_known:
            yield word


def _new_key(name: str, scope: str, file: Path, root: Path) -> str:
    command = [sys.executable, "-m", "service", "keys", "new", name, "--file", str(file)]
    for words in ([*command, "--scope", scope], command):  # an earlier commit has no scopes
        done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False)
        if done.returncode == 0:
            return done.stdout.strip().splitlines()[-1].strip()
    raise ServerError(f"`hotplate keys new {name}` failed: {done.stderr.strip()[-300:]}")


# --- bare graphs ---


def write_bare(repository: Path, name: str, content: bytes) -> Path:
    """Put an ONNX file into a repository; return the version's folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    return folder


def serialized(nodes: Sequence[Any], x: Sequence[Any], y: Sequence[Any], constants: dict[str, Any]) -> bytes:
    """A graph from `x` to `y`, both of 32-bit floats, with these shapes."""
    graph = helper.make_graph(
        list(nodes),
        "attack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return content


def _echo() -> bytes:
    """`y = x`, 28 MiB of them: the largest answer that a body can ask for."""
    shape = [ECHO_ROWS, ECHO_WIDTH]
    return serialized([helper.make_node("Identity", ["x"], ["y"])], shape, shape, {})


def _loop() -> bytes:
    """As many turns of a loop as `x` says: a computation that may last for ever."""
    kinds = {"turn": (TensorProto.INT64, []), "going": (TensorProto.BOOL, []), "sum": (TensorProto.FLOAT, [1])}
    inside = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    going, total = (helper.make_tensor_value_info(f"{name}_out", *kinds[name]) for name in ("going", "sum"))
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["going_out"]), helper.make_node("Sin", ["sum"], ["sum_out"])],
        "body",
        inside,
        [going, total],
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["turns_in_a_row"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["turns_in_a_row", "axis"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", "one"], ["y"], body=body),
    ]
    ones = np.ones(1, np.float32)
    return serialized(nodes, [1], [1], {"axis": np.array([0]), "yes": np.array(True), "one": ones})


def _swell() -> bytes:
    """The sum of as many ones as `x` says, all in memory: what the kernel kills a process for."""
    nodes = [
        helper.make_node("Cast", ["x"], ["count"], to=TensorProto.INT64),
        helper.make_node("Expand", ["one", "count"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["y"], keepdims=1),
    ]
    return serialized(nodes, [1], [1], {"one": np.ones(1, np.float32)})


def open_axes() -> bytes:
    """A convolution whose four axes are all open, as exporters like to write them."""
    weight = np.zeros((8, 3, 3, 3), np.float32)
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])]
    return serialized(nodes, ["batch", "channels", "height", "width"], ["batch", 8, "h", "w"], {"weight": weight})


def not_a_number() -> bytes:
    """The root of minus one: every output is NaN."""
    nodes = [helper.make_node("Abs", ["x"], ["size"]), helper.make_node("Add", ["size", "one"], ["positive"])]
    nodes += [helper.make_node("Neg", ["positive"], ["negative"]), helper.make_node("Sqrt", ["negative"], ["y"])]
    return serialized(nodes, ["batch", 4], ["batch", 4], {"one": np.ones(1, np.float32)})


_GRAPHS = {ECHO: _echo, LOOP: _loop, SWELL: _swell}
