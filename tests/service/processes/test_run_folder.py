"""The folder of the engine's socket: short enough, locked while its service lives, and swept once it is dead."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.errors import StartupError
from service.processes import run_folder as module
from service.processes.run_folder import ENGINE_SOCKET, MAX_SOCKET_PATH_BYTES, run_folder, sweep

OTHER = """
import sys, time
from service.processes.run_folder import run_folder
with run_folder() as folder:
    (folder / "engine.sock").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(module, "_PLACES", ())
    for name in ("TEMP", "TMP", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_is_private_and_goes_at_the_end(place: Path) -> None:
    with run_folder() as folder:
        assert folder.parent == place
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / ENGINE_SOCKET.format(99)).touch()

    assert list(place.iterdir()) == []


def test_a_place_whose_path_is_too_long_for_a_socket_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    long = place / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    short = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(module, "_PLACES", (str(short),))

    with run_folder() as folder, socket.socket(socket.AF_UNIX) as engine:
        assert folder.parent == short
        engine.bind(str(folder / ENGINE_SOCKET.format(99)))


@pytest.mark.parametrize("num_bytes", [MAX_SOCKET_PATH_BYTES, MAX_SOCKET_PATH_BYTES + 1])
def test_the_longest_path_that_fits_is_taken(place: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    rest = num_bytes - len(os.fsencode(place / "hotplate-12345678" / ENGINE_SOCKET.format(99))) - 1
    long = place / ("é" * (rest // 2) + "x" * (rest % 2))
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))

    if num_bytes > MAX_SOCKET_PATH_BYTES:
        with pytest.raises(StartupError, match=f"its path has {num_bytes} bytes"), run_folder():
            pass
    else:
        with run_folder() as folder, socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(folder / ENGINE_SOCKET.format(99)))


def test_without_a_place_the_reasons_are_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")

    with pytest.raises(StartupError, match="nowhere: No such file or directory"), run_folder():
        pass


def test_the_folder_of_a_service_that_lives_stays_and_that_of_a_dead_one_goes(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with run_folder():
            assert folder.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert folder.exists()
    with run_folder():
        assert not folder.exists()


def test_what_may_be_somebody_elses_stays(place: Path) -> None:
    (place / "hotplate-notes").mkdir()
    (place / "hotplate-notes" / "mine.txt").touch()
    (place / "hotplate-young").mkdir()
    (place / "hotplate-file").touch()
    (place / "hotplate-link").symlink_to(place / "hotplate-notes")
    (place / "hotplate-old").mkdir()
    os.utime(place / "hotplate-old", (time.time() - 3600,) * 2)

    sweep(place)

    assert {each.name for each in place.iterdir()} == {f"hotplate-{n}" for n in ("notes", "young", "file", "link")}
    assert (place / "hotplate-notes" / "mine.txt").exists()
