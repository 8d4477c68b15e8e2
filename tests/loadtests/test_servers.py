"""Starting and ending servers, and the peers that need nothing beyond the project's own packages."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loadtests import networks, procfs, servers
from loadtests.bare import open_session
from loadtests.bodies import OCTETS


def peer_command(script: str, port: int, *flags: str) -> list[str]:
    """The command of a peer in this environment."""
    return [sys.executable, f"loadtests/peers/{script}.py", "--port", str(port), *flags]


def test_the_empty_endpoint_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    port = servers.free_port()
    with servers.running("empty", peer_command("empty_endpoint", port), port, "/ready", tmp_path) as server:
        assert servers.require_answer(server, "/classify", bytes(784), OCTETS) == b"{}"
        assert procfs.memory(server.pid).pss_mib > 1
        assert procfs.cpu_seconds(server.pid) > 0
        with pytest.raises(servers.ServerError, match="answered 404"):
            servers.require_answer(server, "/nowhere", b"x", OCTETS)
    assert procfs.start_ticks(server.pid) is None


@pytest.mark.parametrize("variant", ["sync", "async"])
def test_the_plain_endpoint_answers_probabilities(tmp_path: Path, small_version: Path, variant: str) -> None:
    model, port = str(small_version / "model.onnx"), servers.free_port()
    command = peer_command("plain_fastapi", port, "--model", model, "--variant", variant)
    with servers.running("plain", command, port, "/ready", tmp_path) as server:
        reply = servers.require_answer(server, "/classify", bytes(784), OCTETS)
    assert np.frombuffer(reply, np.float32).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_reference_answers_each_caller_what_bare_onnx_runtime_says(tmp_path: Path, processes: str) -> None:
    networks.write_light(tmp_path)
    model, port = str(tmp_path / networks.LIGHT_FP32 / "1" / "model.onnx"), servers.free_port()
    rows = np.random.default_rng(3).standard_normal((40, *networks.LIGHT_SHAPE), dtype=np.float32)
    command = peer_command("asgi_reference", port, "--model", model, "--processes", processes)
    with (
        servers.running("reference", command, port, "/ready", tmp_path) as server,
        ThreadPoolExecutor(len(rows)) as callers,
    ):
        replies = list(callers.map(lambda row: servers.require_answer(server, "/", row.tobytes(), OCTETS), rows))
    (expected,) = open_session(model, 1).run(None, {"x": rows})
    np.testing.assert_allclose([np.frombuffer(reply, np.float32) for reply in replies], expected, atol=1e-5)


def test_an_earlier_commit_is_checked_out_and_gone_afterwards() -> None:
    with servers.checked_out("HEAD") as folder:
        assert (folder / "service" / "__main__.py").is_file()
    assert not folder.exists()
    with pytest.raises(servers.ServerError, match="no-such-commit"), servers.checked_out("no-such-commit"):
        raise AssertionError("a commit that does not exist must not be handed out")


def test_a_server_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the reason')"]
    with (
        pytest.raises(servers.ServerError, match="status 1 before it was ready:\nthe reason"),
        servers.running("broken", command, servers.free_port(), "/", tmp_path),
    ):
        raise AssertionError("a broken server must not be handed out")


def test_a_server_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(60)"
    with (
        pytest.raises(servers.ServerError, match="was not ready after 1 s"),
        servers.running("slow", [sys.executable, "-c", code], servers.free_port(), "/", tmp_path, limit_seconds=1.0),
    ):
        raise AssertionError("a server that does not answer must not be handed out")
    assert procfs.start_ticks(int(marker.read_text())) is None


def test_a_tree_holds_the_children_of_its_root() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            assert child.pid in procfs.process_tree(os.getpid())
        finally:
            child.kill()


def test_cpu_seconds_grow_with_work() -> None:
    before, deadline = procfs.cpu_seconds(os.getpid()), time.monotonic() + 5
    while procfs.cpu_seconds(os.getpid()) <= before and time.monotonic() < deadline:
        sum(range(10_000))
    assert procfs.cpu_seconds(os.getpid()) > before


def test_cpu_seconds_are_told_apart_by_the_module_that_runs() -> None:
    with subprocess.Popen([sys.executable, "-m", "http.server", "0"], stdout=subprocess.DEVNULL) as child:
        try:
            assert "server" in procfs.cpu_seconds_by_program(os.getpid())
        finally:
            child.kill()


def test_a_process_is_kept_on_the_cores_that_it_is_given() -> None:
    cores = sorted(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            procfs.run_on(child.pid, cores[-1:])
            assert os.sched_getaffinity(child.pid) == {cores[-1]}
        finally:
            child.kill()


def test_the_peak_of_a_process_is_read_and_a_missing_one_named() -> None:
    assert procfs.peak_bytes(os.getpid()) > 10_000_000
    with pytest.raises(LookupError, match="runs a module called 'nothing'"):
        procfs.find_process(os.getpid(), "nothing")


def test_a_process_is_found_by_its_module_in_whatever_package() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "some.package.worker"]) as child:
        try:
            assert procfs.find_process(os.getpid(), "worker") == child.pid
        finally:
            child.kill()
