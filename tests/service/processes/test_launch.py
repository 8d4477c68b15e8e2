"""How a child process is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.processes.launch import Launch, command, environment, read_launch
from service.settings import Settings


def test_a_child_reads_the_launch_that_its_parent_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("service.processes.launch._STDIN", reader)
    launch = Launch(Settings(port=8100, metrics_compat=("triton",)), ("/run/engine-0.sock",), 0, 7, "127.0.0.1:8101")

    os.write(writer, launch.encode() + b"rest")

    assert read_launch() == launch
    assert os.read(reader, 10) == b"rest"
    os.close(reader)
    os.close(writer)


def test_a_child_never_imports_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("service", "models", "training", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")

    done = subprocess.run(
        command("service.processes.probe"),
        cwd=tmp_path,
        env=environment() | {"HOTPLATE_PORT": "9"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("127.0.0.1:9 does not answer /readyz")


def test_a_child_of_a_checkout_finds_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    root = str(Path(__file__).resolve().parents[3])

    code = "import sys; print(sys.path[0], sys.path[1])"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )

    assert shown.stdout.split() == [root, "/elsewhere"]
