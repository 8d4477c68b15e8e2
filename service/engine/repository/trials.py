"""Tries out an ONNX file of which nothing is known: which inputs it computes, and whether it can be batched.

`try_out` does so in a process of its own, which bounds memory and time: what a graph takes shows only when it runs, and
one that takes too much ends that process and nothing else. The process says what it knows so far, a line of JSON each
time, so that what it found before its end is not lost.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from models.manifest import ONNX_DATATYPES, TensorSpec
from service.engine.repository.independence import MOST_ROWS, Arrays, Dependent, Proof, is_shortage, row

# What is tried for the sizes of open axes: first the same for all, then small sizes for one axis at a time.
COMMON_SIZES = (2, 1, 3, 4, 8, 16, 32, 64, 128, 224, 256, 299, 384, 512)
SMALL_SIZES = (1, 3, 4, 2)
# Where sizes are free, inputs of more bytes than this are not tried.
MAX_BYTES = 2**23
PR_SET_PDEATHSIG = 1  # prctl(2)
LOAD_SECONDS = 600.0
# How long the process that tries graphs waits for another.
IDLE_SECONDS = 5.0

SAID = "config.toml says so"
UNTRIED = "no random row could be computed"
ADVICE = "raise --load-memory-bytes, or give it a manifest and golden.npz"
ADVISED_SIZE = 8
UNPROVED = "comparing its rows took too long"


class Question(msgspec.Struct, kw_only=True):
    """What is to be tried, once it is loaded; `sizes` are those of open axes that have a name.

    `is_batched` is None where that is to be found out.
    """

    file: str
    is_ort_format: bool = False
    memory_bytes: int
    seconds: float = 10.0
    sizes: dict[str, int] = {}
    is_batched: bool | None = None


class Signature(msgspec.Struct):
    """A graph's inputs and outputs as it declares them, and its description.

    `open_axes` are the names of the axes whose sizes are tried, as `sizes` in config.toml takes them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    description: str
    open_axes: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """What to put into config.toml where no size that is tried will do; empty where all sizes are fixed."""
        if not self.open_axes:
            return ""
        axes = (name if name.isidentifier() and name.isascii() else json.dumps(name) for name in self.open_axes)
        sizes = ", ".join(f"{axis} = {ADVISED_SIZE}" for axis in axes)
        return f"put sizes that it takes into config.toml, as in `sizes = {{{sizes}}}`"


class Verdict(msgspec.Struct, kw_only=True):
    """What is known of a graph: how it can be batched and why, and a row (or whole inputs) that it computes.

    `kind` is the kind of values, `shapes` the shapes of that row's inputs by name, empty where nothing was computed.
    `problem` says why it cannot be tried any further; `is_shortage`: it took too much memory. `output_axes` are those
    observed, without that of the batch. `row_bytes` is about what one more row in a batch takes. `signature` is None
    where the graph could not be loaded.
    """

    is_batched: bool = False
    reason: str = ""
    kind: int = 0
    shapes: dict[str, tuple[int, ...]] = {}
    output_axes: dict[str, int] = {}
    row_bytes: int = 0
    problem: str = ""
    is_shortage: bool = False
    signature: Signature | None = None


# --- the process that tries ---


def specs_of(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """The tensors of a session's inputs or outputs; an open axis is -1.

    Raises: ValueError where a request cannot carry one.
    """
    if (odd := next((node for node in nodes if node.type not in ONNX_DATATYPES), None)) is not None:
        raise ValueError(
            f"{odd.name!r} is {odd.type}, which a request cannot carry; export the graph with tensors of one of "
            f"{', '.join(sorted(ONNX_DATATYPES.values()))} (for a classifier of scikit-learn: zipmap=False)."
        )
    shapes = (tuple(size if isinstance(size, int) else -1 for size in node.shape) for node in nodes)
    return tuple(
        TensorSpec(name=node.name, datatype=ONNX_DATATYPES[node.type], shape=shape)
        for node, shape in zip(nodes, shapes, strict=True)
    )


class Trial:
    """One graph that is tried out."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._session = self._open(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = specs_of(self._inputs), specs_of(self._outputs)
        description = self._session.get_modelmeta().description
        self.signature = Signature(self.inputs, self.outputs, description, tuple(self._open_axes()))
        self.began = time.monotonic()

    def _open(self, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = level
        # What is free goes back at once, so that what is counted is what one trial needs.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.load_model_format", "ORT" if self._question.is_ort_format else "ONNX")
        return ort.InferenceSession(self._question.file, options, providers=["CPUExecutionProvider"])

    @functools.cached_property
    def _plain(self) -> ort.InferenceSession:
        return self._open(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)

    def run(self, feed: Arrays) -> Arrays:
        """Compute whole tensors.

        Raises: whatever ONNX Runtime raises.
        """
        return self._run(self._session, feed)

    def run_plain(self, feed: Arrays) -> Arrays:
        """Compute as the graph is written, without optimisations."""
        return self._run(self._plain, feed)

    def _run(self, session: ort.InferenceSession, feed: Arrays) -> Arrays:
        names = [spec.name for spec in self.outputs]
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        if not any(spec.datatype == "BF16" for spec in specs.values()):
            return dict(zip(names, map(np.asarray, session.run(names, feed)), strict=True))
        from service.engine.runtime.runners import bits_of, value_of

        ort_values = {name: value_of(array, specs[name].datatype == "BF16") for name, array in feed.items()}
        results = session.run_with_ort_values(names, ort_values)
        return {
            name: bits_of(value) if specs[name].datatype == "BF16" else value.numpy()
            for name, value in zip(names, results, strict=True)
        }

    def obstacle(self) -> str:
        """Why the signature leaves no axis for rows; empty where it has one."""
        shapes = [node.shape for node in self._inputs]
        names = {shape[0] for shape in shapes if shape}
        if not self.inputs:
            return "it has no inputs"
        if any(spec.datatype == "BYTES" for spec in self.inputs):
            return "it takes strings"
        if any(not spec.shape or spec.shape[0] != -1 for spec in (*self.inputs, *self.outputs)):
            return "not every input and output has a first axis of open size"
        if self._question.is_batched:
            return ""
        if all(len(spec.shape) == 1 for spec in self.inputs):
            return "its inputs have one axis, which may be that of a vector"
        if len(names) > 1 or (len(shapes) > 1 and not isinstance(shapes[0][0], str)):
            return f"the first axes of its inputs need not be equal: {[str(shape[0] or 'no name') for shape in shapes]}"
        if isinstance(name := names.pop(), str) and any(name in shape[1:] for shape in shapes):
            return f"the size {name!r} is also the size of another axis"
        return ""

    def shapes(self, *, is_batched: bool) -> Iterator[dict[str, tuple[int, ...]]]:
        """Shapes to try, from small to large; the first axis of a batched graph is 1."""
        named = self._axes(is_batched=is_batched)
        open_axes = [key for keys in named.values() for key in keys if isinstance(key, str)]
        free = [key for key in dict.fromkeys(open_axes) if key not in self._question.sizes]
        for sizes in _sizes(free):
            known = sizes | self._question.sizes
            shapes = {name: tuple(k if isinstance(k, int) else known[k] for k in keys) for name, keys in named.items()}
            if not free or self._num_bytes(shapes) <= MAX_BYTES:
                yield shapes

    def _axes(self, *, is_batched: bool) -> dict[str, list[str | int]]:
        """Of each input the sizes of its axes, or the names of those that are open; the rows of a batch are 1."""
        named = {}
        for node in self._inputs:
            sizes = [s if isinstance(s, int | str) else f"{node.name}[{place}]" for place, s in enumerate(node.shape)]
            if is_batched and sizes and isinstance(sizes[0], str):
                sizes[0] = 1
            named[node.name] = sizes
        return named

    def _open_axes(self) -> list[str]:
        """The names of the open axes, but for that of the batch where there is one."""
        named = self._axes(is_batched=not self.obstacle())
        return [*dict.fromkeys(key for keys in named.values() for key in keys if isinstance(key, str))]

    def _num_bytes(self, shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(prod(shapes[spec.name]) * spec.dtype.itemsize for spec in self.inputs)

    def find(self, *, is_batched: bool) -> tuple[dict[str, tuple[int, ...]], int, Arrays] | None:
        """The first inputs that the graph computes: their shapes, their kind of values, and the outputs."""
        for shapes in self.shapes(is_batched=is_batched):
            for kind in (0, 1):
                try:
                    return shapes, kind, self.run(row(self.inputs, shapes, kind, 1))
                except Exception as error:  # ONNX Runtime has few errors of its own: this is no input of the graph
                    if is_shortage(error):
                        shapes_ = {name: list(shape) for name, shape in shapes.items()}
                        raise MemoryError(f"inputs of the shapes {shapes_}") from error
        return None


def _sizes(keys: list[str]) -> Iterator[dict[str, int]]:
    for size in COMMON_SIZES:
        yield dict.fromkeys(keys, size)
        if not keys:
            return
    for size in COMMON_SIZES:
        for small, which in product(SMALL_SIZES, keys):
            if len(keys) > 1:
                yield dict.fromkeys(keys, size) | {which: small}


def _answer(question: Question) -> Iterator[Verdict]:
    """What is known of a graph, more each time."""
    trial = Trial(question)
    yield Verdict(reason=UNTRIED, signature=trial.signature)
    signal.setitimer(signal.ITIMER_REAL, question.seconds)  # the default action ends the process
    obstacle = trial.obstacle()
    if question.is_batched and obstacle:
        yield Verdict(problem=f"config.toml says batched = true, but {obstacle}.")
        return
    if question.is_batched is False:
        obstacle = SAID
    elif not obstacle and question.is_batched is None:
        from service.engine.repository.row_mixing import mixing_operator

        obstacle = mixing_operator(Path(question.file))
    if not obstacle:
        for verdict in _batched(trial, question):
            yield verdict
        if verdict.is_batched:
            return
        obstacle = verdict.reason
    yield Verdict(reason=obstacle)
    if (found := trial.find(is_batched=False)) is not None:
        shapes, kind, outputs = found
        yield Verdict(reason=obstacle, kind=kind, shapes=shapes, output_axes=_axes(outputs, 0))


def _batched(trial: Trial, question: Question) -> Iterator[Verdict]:
    found = trial.find(is_batched=True)
    if found is None:
        reason = f"{SAID}; no random row could be computed" if question.is_batched else UNTRIED
        yield Verdict(is_batched=bool(question.is_batched), reason=reason)
        return
    shapes, kind, outputs = found
    yield Verdict(reason=UNPROVED, kind=kind, shapes=shapes, output_axes=_axes(outputs, 0))
    reason = SAID
    if question.is_batched is None:
        proof = Proof(trial, shapes, kind)
        try:
            proof.check()
        except Dependent as error:
            yield Verdict(reason=str(error))
            return
        reason = f"its rows were independent in {proof.num_comparisons} comparisons of random rows"
    verdict = Verdict(is_batched=True, reason=reason, kind=kind, shapes=shapes, output_axes=_axes(outputs, 1))
    verdict.row_bytes = _row_bytes(trial, shapes, kind)
    yield verdict


def _row_bytes(trial: Trial, shapes: dict[str, tuple[int, ...]], kind: int) -> int:
    """About what one more row in a batch takes: the peak of a batch of some rows, less that of one row."""
    one = row(trial.inputs, shapes, kind, 1)
    peaks = []
    for num_rows in (1, MOST_ROWS):
        feed = {name: np.repeat(array, num_rows, axis=0) for name, array in one.items()}
        try:
            Path("/proc/self/clear_refs").write_text("5")  # begin to look for the peak anew
            trial.run(feed)
        except Exception:  # not allowed here, or memory ran out
            return 0
        lines = Path("/proc/self/status").read_text().splitlines()
        peaks.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
    return max(0, peaks[1] - peaks[0]) // (MOST_ROWS - 1)


def _axes(outputs: Arrays, num_batch_axes: int) -> dict[str, int]:
    return {name: array.ndim - num_batch_axes for name, array in outputs.items()}


def end_with_parent() -> None:
    """End when the process that started this one does."""
    with contextlib.suppress(AttributeError, OSError):  # a C library without it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def confine(memory_bytes: int) -> None:
    """Take no more memory than this beyond what is taken."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit, hard = taken + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


class Report(msgspec.Struct):
    """How the process that tried a graph ended, and its verdicts, the last of which knows most."""

    status: int
    verdicts: list[Verdict]


def main() -> None:
    """Answer questions, a line each on standard input, until there are none for a while; each in a fork of its own.

    So what every trial needs is loaded once. This process runs no graph, and no thread that a fork would lack.
    """
    from service.engine.repository import row_mixing  # noqa: F401  (every fork has it then)

    end_with_parent()
    rest = b""
    while select.select([0], [], [], IDLE_SECONDS)[0] and (read := os.read(0, 65536)):
        rest += read
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            sys.stdout.buffer.write(msgspec.json.encode(_in_a_fork(line)) + b"\n")
            sys.stdout.buffer.flush()


def _in_a_fork(line: bytes) -> Report:
    reading, writing = os.pipe()
    if not (process := os.fork()):
        with contextlib.suppress(BaseException):
            _try(msgspec.json.decode(line, type=Question), writing)
            os._exit(0)
        os._exit(1)
    os.close(writing)
    with open(reading, "rb") as answers:
        lines = answers.read().splitlines()
    _, status = os.waitpid(process, 0)
    return Report(os.waitstatus_to_exitcode(status), [msgspec.json.decode(each, type=Verdict) for each in lines])


def _try(question: Question, answers: int) -> None:
    """Try a graph, and write each verdict as soon as it is known."""
    signal.setitimer(signal.ITIMER_REAL, LOAD_SECONDS)  # its default action ends the process

    def say(verdict: Verdict) -> None:
        os.write(answers, msgspec.json.encode(verdict) + b"\n")

    end_with_parent()
    confine(question.memory_bytes + 3 * Path(question.file).stat().st_size)
    try:
        for verdict in _answer(question):
            say(verdict)
    except Exception as error:
        if is_shortage(error):
            say(Verdict(problem=f"{error} take more than {question.memory_bytes} bytes", is_shortage=True))
        else:  # the engine loads it too, and says what is wrong
            say(Verdict(reason="it could not be tried on a CPU"))


# --- the process that asks ---


def child(module: str) -> dict[str, Any]:
    """How a module is started as a process that strangers' graphs run in."""
    # What is counted is to be what is used: each arena of the C library's would count as 64 MB, and what is freed must
    # go back at once, however large the blocks before it were. Threads do not survive a fork.
    env = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "OPENBLAS_NUM_THREADS": "1"}
    return {"args": [sys.executable, "-m", module], "cwd": Path(__file__).parents[3], "env": env}


_lock = threading.Lock()
_hosts: list[subprocess.Popen[bytes]] = []


def try_out(question: Question) -> Verdict:
    """Try a graph out in a process of its own; where that ended badly, `problem` says how."""
    with _lock:
        # One that was idle, or that ended with the thread that started it, is replaced.
        answer = _asked(question) or _asked(question)
    if not answer:
        raise RuntimeError("the process that tries graphs ended")
    report = msgspec.json.decode(answer, type=Report)
    verdict = report.verdicts[-1] if report.verdicts else Verdict(reason=UNTRIED)
    verdict.signature = report.verdicts[0].signature if report.verdicts else None
    if report.status == -signal.SIGALRM:
        verdict.reason = f"{verdict.reason}; trials ended after {question.seconds:.0f} s"
    elif report.status < 0:
        name = signal.Signals(-report.status).name
        verdict.problem, verdict.is_shortage = f"a process that tried it was ended by {name}", True
    elif report.status:
        raise RuntimeError(f"a process that tried a graph ended with status {report.status}")
    advice = "" if verdict.signature is None else verdict.signature.advice
    if verdict.is_shortage:
        verdict.problem = f"{verdict.problem}: {', '.join(filter(None, (advice, ADVICE)))}."
    elif not verdict.output_axes and advice:  # nothing was computed
        verdict.reason = f"{verdict.reason}; {advice}"
    return verdict


def _asked(question: Question) -> bytes:
    """The answer of the process that has what trials need, which is started if there is none; empty where it ended."""
    if _hosts and _hosts[0].poll() is not None:
        _end()
    if not _hosts:
        _hosts.append(subprocess.Popen(**child(__name__), stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    stdin, stdout = _hosts[0].stdin, _hosts[0].stdout
    assert stdin is not None
    assert stdout is not None
    try:
        stdin.write(msgspec.json.encode(question) + b"\n")
        stdin.flush()
        answer = stdout.readline()
    except OSError:
        answer = b""
    if not answer:
        _hosts[0].wait()
    return answer


@atexit.register
def _end() -> None:
    """End the process that has what trials need, which reads until its input is closed, and wait for it."""
    while _hosts:
        with contextlib.suppress(OSError), _hosts.pop():
            pass


if __name__ == "__main__":
    main()
