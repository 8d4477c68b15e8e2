"""Sessions and runners. The CUDA runner's buckets, copies and bindings run here on CPU memory; no GPU is claimed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from models.manifest import Graph
from service.engine.runtime import cuda, runtime
from service.engine.runtime.cuda import CudaRunner
from service.engine.runtime.runners import SessionRunner
from service.engine.runtime.runtime import (
    EXIT_DEVICE_LOST,
    ArenaGuard,
    Device,
    available_cpus,
    available_memory_bytes,
    bucket_for,
    claim_device,
    free_memory,
    open_session,
    trim,
)
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed, StartupError
from service.telemetry.metrics import resident_bytes
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, heavy_bytes
from tests.fake_models.classification import OUTPUTS, SHAPE, LinearClassifier
from tests.fake_models.style_transfer import TinyStylizer
from tests.tiers import unavailable

CPU = Device("cpu")
NETWORK = LinearClassifier()
GRAPH = Graph(file="model.onnx", sha256="0" * 64, inputs=NETWORK.inputs, outputs=OUTPUTS)


class RecordingSession:
    """A session that counts its runs."""

    def __init__(self) -> None:
        self._session = open_session(NETWORK.onnx(), CPU, 1)
        self.num_runs = 0

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.num_runs += 1
        self._session.run_with_iobinding(binding, options)


def bound_runner(session: Any = None, graph_id_base: int | None = None) -> CudaRunner:
    session = session or open_session(NETWORK.onnx(), CPU, 1)
    return CudaRunner(dict.fromkeys((1, 4, 8), session), GRAPH, CPU, threading.Lock(), graph_id_base)


@pytest.mark.parametrize("num_rows", [1, 2, 4, 7, 8])
def test_a_batch_padded_to_its_bucket_gives_the_rows_that_went_in(num_rows: int) -> None:
    images = NETWORK.images(8)

    actual = bound_runner().run({"image": images}, num_rows, ("probabilities", "embedding"))

    expected = NETWORK.outputs(images[:num_rows])
    assert actual["probabilities"].shape == (num_rows, 4)
    assert np.allclose(actual["probabilities"], expected["probabilities"], atol=1e-5)
    assert np.allclose(actual["embedding"], expected["embedding"], atol=1e-5)


def test_outputs_are_named_correctly_in_any_order() -> None:
    images = NETWORK.images(3)
    runner = bound_runner()

    for names in (("embedding", "probabilities"), ("activation_map",), ("probabilities", "activation_map")):
        actual = runner.run({"image": images}, 3, names)
        assert list(actual) == list(names)
        assert all(np.allclose(actual[name], NETWORK.outputs(images)[name], atol=1e-4) for name in names)


def test_a_bucket_can_be_run_again_with_other_rows() -> None:
    runner = bound_runner(graph_id_base=1)

    for seed in range(3):
        images = NETWORK.images(4, seed)
        actual = runner.run({"image": images}, 4, ("embedding",))["embedding"]
        assert np.allclose(actual, NETWORK.outputs(images)["embedding"], atol=1e-5)


def test_each_bucket_runs_in_the_session_that_planned_for_its_shape() -> None:
    sessions = {bucket: RecordingSession() for bucket in (1, 4, 8)}
    runner = CudaRunner(sessions, GRAPH, CPU, threading.Lock(), None)

    for num_rows in (1, 3, 8, 2):
        runner.run({"image": NETWORK.images(8)}, num_rows, ("embedding",))

    assert {bucket: session.num_runs for bucket, session in sessions.items()} == {1: 1, 4: 2, 8: 1}


PAINTER = TinyStylizer()


def painting_runner(buckets: tuple[int, ...] = (1, 4)) -> CudaRunner:
    inputs, outputs = PAINTER.signature("model")
    graph = Graph(file="model.onnx", sha256="0" * 64, inputs=inputs, outputs=outputs)
    session = open_session(PAINTER.onnx("model"), CPU, 1, varies=True)
    return CudaRunner(dict.fromkeys(buckets, session), graph, CPU, threading.Lock(), graph_id_base=1)


def test_bound_memory_follows_rows_that_vary_in_size() -> None:
    runner = painting_runner()

    for num_rows, height, width in ((1, 32, 48), (3, 32, 48), (3, 20, 24), (2, 32, 48), (1, 32, 48)):
        arrays: dict[str, Any] = {
            "image": PAINTER.images(4, height, width, num_rows),
            "style_weights": PAINTER.pure("night", 4),
        }
        actual = runner.run(arrays, num_rows, ("painting",))["painting"]
        expected = PAINTER.paint(arrays["image"][:num_rows], arrays["style_weights"][:num_rows])
        assert actual.shape == expected.shape
        assert np.abs(actual.astype(int) - expected).max() <= 1
    assert runner.num_buffers == 3


def test_memory_is_bound_for_a_bounded_number_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MAX_VARYING_BUFFERS", 2)
    runner = painting_runner()

    for width in (8, 12, 16, 8):
        arrays: dict[str, Any] = {"image": PAINTER.images(1, 8, width), "style_weights": PAINTER.pure("waves")}
        actual = runner.run(arrays, 1, ("painting",))["painting"]
        assert np.abs(actual.astype(int) - PAINTER.paint(**arrays)).max() <= 1

    assert runner.num_buffers == 2


def test_rows_of_a_wrong_shape_take_no_new_memory_where_the_shape_is_fixed() -> None:
    runner = bound_runner()

    with pytest.raises(InferenceFailed, match="could not compute"):
        runner.run({"image": np.zeros((1, 9, 9, 1), np.uint8)}, 1, ("embedding",))

    assert runner.num_buffers == 3


class FailingSession:
    """A session whose runs fail as ONNX Runtime's do."""

    def __init__(self, message: str) -> None:
        self._real = open_session(NETWORK.onnx(), CPU, 1)
        self._message = message

    def io_binding(self) -> Any:
        return self._real.io_binding()

    def run_with_iobinding(self, *_arguments: Any) -> None:
        raise RuntimeError(self._message)


def test_an_input_that_cannot_be_computed_fails_alone() -> None:
    runner = bound_runner(FailingSession("Non-zero status code: invalid argument"))

    with pytest.raises(InferenceFailed, match="could not compute"):
        runner.run({"image": NETWORK.images(1)}, 1, ("embedding",))


def test_a_cuda_error_ends_the_process_for_its_context_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedError(Exception):
        pass

    def end(status: int) -> None:
        raise EndedError(status)

    monkeypatch.setattr("service.engine.runtime.cuda.os._exit", end)

    with pytest.raises(EndedError, match=str(EXIT_DEVICE_LOST)):
        bound_runner(FailingSession("CUDA failure 700: an illegal memory access")).run(
            {"image": NETWORK.images(1)}, 1, ("embedding",)
        )


def test_a_session_that_fell_back_to_the_cpu_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(runtime, "_providers", lambda _device, _varies: ["CPUExecutionProvider"])

    with pytest.raises(StartupError, match="cuda:0 was requested, but the session runs on CPUExecutionProvider"):
        open_session(NETWORK.onnx(), Device("cuda"), 1)


@pytest.mark.parametrize(("varies", "prefer_nhwc"), [(False, "1"), (True, "0")])
def test_convolutions_on_cuda_are_chosen_by_heuristics_and_by_shape(varies: bool, prefer_nhwc: str) -> None:
    (name, options), fallback = runtime._providers(Device("cuda", 1), varies)

    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["prefer_nhwc"] == prefer_nhwc
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["device_id"] == "1"


def test_rows_of_a_wrong_shape_fail_in_our_words() -> None:
    runner = SessionRunner(open_session(NETWORK.onnx(), CPU, 1), GRAPH)

    with pytest.raises(InferenceFailed, match="could not compute"):
        runner.run({"image": np.zeros((1, *SHAPE), np.float32)}, 1, ("embedding",))


@pytest.mark.parametrize(("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (32, 32)])
def test_the_bucket_is_the_smallest_that_holds_the_batch(num_rows: int, bucket: int) -> None:
    assert bucket_for(num_rows, (1, 2, 4, 8, 16, 32)) == bucket


SHRINKAGE = "memory.enable_memory_arena_shrinkage"


def test_memory_is_given_back_only_while_the_process_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    before = 100 * 2**20
    resident = [before]
    monkeypatch.setattr(runtime, "_bytes_before_varying", lambda: before)
    monkeypatch.setattr(runtime, "resident_bytes", lambda: resident[0])
    guard = ArenaGuard()

    def gives_back() -> bool:
        try:
            return bool(guard.run_options().get_run_config_entry(SHRINKAGE) == "cpu:0")
        except RuntimeError:  # it has no such entry
            return False

    assert not gives_back()
    resident[0] += runtime.KEPT_BYTES + 1
    assert gives_back()
    resident[0] -= 2
    assert not gives_back()


def test_what_many_sizes_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stylizer = TinyStylizer()
    content = stylizer.onnx("model")
    inputs, outputs = stylizer.signature("model")
    graph = Graph(file="model.onnx", sha256="0" * 64, inputs=inputs, outputs=outputs)
    sides = (480, 1000, 520, 720)

    def grown_mb(kept_bytes: int) -> float:
        monkeypatch.setattr(runtime, "KEPT_BYTES", kept_bytes)
        runner = SessionRunner(open_session(content, CPU, 1, varies=True), graph, uses_shared_arena=True)
        before = resident_bytes()
        for side in sides:
            rows: Arrays = {"image": stylizer.images(1, side, side), "style_weights": stylizer.pure("night")}
            runner.run(rows, 1, ("painting",))
        return (resident_bytes() - before) / 2**20

    hoarded = grown_mb(2**40)
    given_back = grown_mb(-(2**40))

    assert hoarded > 40
    assert given_back < hoarded / 2


def wide(width: int) -> bytes:
    """A graph that computes rows of a few numbers by way of wide ones."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["more"]),
        helper.make_node("ReduceMean", ["more", "axes"], ["y"], keepdims=1),
    ]
    sides = [("x", FLOAT, ["N", 1])], [("y", FLOAT, ["N", 1])]
    return graph_bytes(nodes, *sides, {"shape": np.array([1, width]), "axes": np.array([1])})


def test_models_compute_in_one_arena_that_is_given_back() -> None:
    sessions = [open_session(wide(4 * 2**20 + place), CPU, 1) for place in range(6)]
    trim()
    before = resident_bytes()

    for session in sessions:
        session.run(None, {"x": np.ones((1, 1), np.float32)})
    computed = resident_bytes() - before
    trim()

    # Two tensors of 16 MiB for the time of a run, in an arena whose regions double; six arenas would keep 192 MiB.
    assert 20 * 2**20 < computed < 120 * 2**20
    assert resident_bytes() - before < 8 * 2**20


def test_the_weights_of_a_session_are_free_when_it_is_gone_while_another_computes() -> None:
    content = heavy_bytes(2.0, 64 * 2**20)
    other = open_session(wide(1024), CPU, 1)
    trim()
    before = resident_bytes()

    session = open_session(content, CPU, 1)
    other.run(None, {"x": np.ones((1, 1), np.float32)})
    loaded = resident_bytes() - before
    del session
    free_memory()

    assert loaded > 48 * 2**20
    assert resident_bytes() - before < 8 * 2**20


HOST_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", HOST_CPUS),
        ("50000 100000", 1),
        ("150000 100000", min(2, HOST_CPUS)),
        ("10000000 100000", HOST_CPUS),
    ],
)
def test_the_quota_of_cgroup_v2_bounds_the_cpus(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")

    assert available_cpus(tmp_path) == expected


def test_the_quota_of_cgroup_v1_bounds_the_cpus(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")

    assert available_cpus(tmp_path) == 1


def test_without_a_cgroup_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == HOST_CPUS


@pytest.mark.parametrize(
    ("line", "folder", "file"),
    [
        ("0::/", ".", "memory.max"),
        ("0::/system.slice/hotplate.service", "system.slice/hotplate.service", "memory.max"),
        ("0::/system.slice/hotplate.service", "system.slice", "memory.max"),
        ("8:memory:/", "memory", "memory.limit_in_bytes"),
        ("8:memory:/limited", "memory/limited", "memory.limit_in_bytes"),
        ("8:memory:/docker/5fe1", "memory", "memory.limit_in_bytes"),  # a container sees its own cgroup as the root
    ],
)
def test_the_least_limit_of_a_cgroup_and_those_above_it_bounds_the_memory(
    tmp_path: Path, line: str, folder: str, file: str
) -> None:
    own = tmp_path / "own"
    own.write_text(f"9:pids:/elsewhere\n{line}\n")
    whole = available_memory_bytes(tmp_path / "none", own)
    (tmp_path / "cgroup" / folder).mkdir(parents=True)
    (tmp_path / "cgroup" / folder / file).write_text("1000000\n")
    (tmp_path / "cgroup" / "elsewhere").mkdir()
    (tmp_path / "cgroup" / "elsewhere" / file).write_text("1\n")

    assert available_memory_bytes(tmp_path / "cgroup", own) == 1_000_000
    (tmp_path / "cgroup" / folder / file).write_text("max\n")
    assert available_memory_bytes(tmp_path / "cgroup", own) == whole


def claimed(devices: list[str], number: int) -> tuple[str, list[int]]:
    """The device and the cores of a process that has claimed one of several devices."""
    code = (
        "import os; from service.engine.runtime.runtime import claim_device; "
        f"print(claim_device({devices}, {number}), *sorted(os.sched_getaffinity(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    device, *cores = done.stdout.split()
    return device, [*map(int, cores)]


def test_cpu_engines_divide_the_cores_among_them() -> None:
    if available_cpus() < 2:
        unavailable("two engines on the CPU take two cores")
    cores = sorted(os.sched_getaffinity(0))[: available_cpus()]

    first, second = (claimed(["cpu", "cpu"], number) for number in (0, 1))

    assert (first[0], second[0]) == ("cpu", "cpu")
    assert first[1] + second[1] == cores
    assert abs(len(first[1]) - len(second[1])) <= 1


def test_more_cpu_engines_than_cores_are_refused() -> None:
    with pytest.raises(StartupError, match=f"and there are {available_cpus()} cores"):
        claim_device(["cpu"] * (available_cpus() + 1), 0)
