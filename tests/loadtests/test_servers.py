"""Starting and ending servers, and the peers that need nothing beyond the project's own packages."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from loadtests import procfs, resnet, servers
from loadtests.bare import Burst, running_bare
from loadtests.measure import RAW, Gauge, Load

SMALL = resnet.Residual("small", depths=(1, 1), width=8, image_size=28, num_channels=1, num_classes=10, stem_stride=1)

WRK_STAND_IN = """
import sys, urllib.request
url, separator, body, media_type = sys.argv[-4:]
request = urllib.request.Request(url, open(body, "rb").read(), {"Content-Type": media_type})
assert separator == "--" and "-c1" in sys.argv and urllib.request.urlopen(request).status == 200
print("     50%    1.00ms")
print("     99%    2.00ms")
print("  10 requests in 1.00s, 1.00KB read")
print("Requests/sec:     10.00")
"""


def peer_command(script: str, port: int, *flags: str) -> list[str]:
    """The command of a peer in this environment."""
    return [sys.executable, f"loadtests/peers/{script}.py", "--port", str(port), *flags]


def test_the_empty_endpoint_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    port = servers.free_port()
    with servers.running("empty", peer_command("empty_endpoint", port), port, "/ready", tmp_path) as server:
        assert servers.require_answer(server, "/classify", bytes(784), RAW) == b"{}"
        assert procfs.memory(server.pid).pss_mib > 1
        assert procfs.cpu_seconds(server.pid) > 0
        with pytest.raises(servers.ServerError, match="answered 404"):
            servers.require_answer(server, "/nowhere", b"x", RAW)
    assert procfs.start_ticks(server.pid) is None


@pytest.mark.parametrize("variant", ["sync", "async"])
def test_the_plain_endpoint_answers_probabilities(tmp_path: Path, variant: str) -> None:
    folder, port = resnet.write_residual(tmp_path, SMALL, (1, 4)), servers.free_port()
    command = peer_command("plain_fastapi", port, "--model", str(folder / "model.onnx"), "--variant", variant)
    with servers.running("plain", command, port, "/ready", tmp_path) as server:
        reply = servers.require_answer(server, "/classify", bytes(784), RAW)
    assert np.frombuffer(reply, np.float32).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_round_of_load_is_measured_between_two_bare_bursts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for wrk, which is no Python package and may be missing where tests run: it posts once and reports.
    script = tmp_path / "bin" / "wrk"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{WRK_STAND_IN}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    folder, port = resnet.write_residual(tmp_path, SMALL, (1, 4)), servers.free_port()
    body = tmp_path / "body"
    body.write_bytes(bytes(784))
    with (
        running_bare(folder / "model.onnx") as bare,
        servers.running("empty", peer_command("empty_endpoint", port), port, "/ready", tmp_path) as server,
    ):
        gauge = Gauge("small", bare, Burst(4), 1.0, 0.05)
        cells = gauge.run_cells(server, "/classify", [Load(body, RAW, 1)], 1)
    assert cells[0].rate == 10.0
    assert cells[0].added_ms is not None
    assert cells[0].rounds[0].num_errors == 0
    assert cells[0].rounds[0].bare_images_per_second > 0
    assert cells[0].mean_batch_size is None


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
