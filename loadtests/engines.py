"""Engines in processes of their own: a JSON job a line in, a JSON answer a line out; and the environment of the peers.

Both ends are here. The engine's end runs in the peers' environment too, so this needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

from loadtests.servers import ROOT

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_LOAD_SECONDS = _JOB_SECONDS = 600.0
_INSTALL_SECONDS = 300
_SHARED_PACKAGES = ("uvloop", "httptools")


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the message says why."""


def serve(
    load: Callable[[], Callable[[Job], Any]],
    job_type: Callable[..., Job],
    jobs: TextIO = sys.stdin,
    answers: TextIO = sys.stdout,
) -> None:
    """Load an engine, say that it is ready or why it is not, and answer jobs with dataclasses until the input ends."""

    def say(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        answer = load()
    except ImportError as error:
        say({"unavailable": f"not installed: {error}"})
        return
    except Exception as error:  # A peer may raise anything; whatever it raises is the reason.
        say({"unavailable": f"{type(error).__name__}: {error}"})
        return
    say({"ready": True})
    for line in jobs:
        say(asdict(answer(job_type(**json.loads(line)))))


class EngineProcess(Generic[Answer]):
    """The caller's end of an engine's process."""

    def __init__(
        self, name: str, process: subprocess.Popen[str], log: Path, answer_type: Callable[..., Answer]
    ) -> None:
        """Take over a started process that answers with this type."""
        self.name = name
        self._process, self._log, self._answer_type = process, log, answer_type

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the engine's first line.

        Raises: EngineUnavailable.
        """
        first = json.loads(self._read(_LOAD_SECONDS))
        if "ready" not in first:
            raise EngineUnavailable(str(first.get("unavailable", first)))

    def run(self, job: DataclassInstance) -> Answer:
        """Run a job.

        Raises: EngineUnavailable when the process died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EngineUnavailable(f"{self.name} ended: {error}.") from error
        return self._answer_type(**json.loads(self._read(_JOB_SECONDS)))

    def _read(self, limit_seconds: float) -> str:
        assert self._process.stdout is not None
        guard = threading.Timer(limit_seconds, self._process.kill)
        guard.start()
        try:
            # Libraries print too; only JSON objects are answers.
            while (line := self._process.stdout.readline()) and not line.startswith("{"):
                continue
        finally:
            guard.cancel()
        if not line:
            said = self._log.read_text(errors="replace").strip()[-400:]
            raise EngineUnavailable(f"{self.name} ended; its log says: {said}")
        return line


@contextlib.contextmanager
def running_engine(
    name: str, command: Sequence[str], threads: int, logs: Path, answer_type: Callable[..., Answer]
) -> Iterator[EngineProcess[Answer]]:
    """Run an engine until the block ends.

    Raises: EngineUnavailable.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.replace(' ', '-')}.log"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    pipe = subprocess.PIPE
    try:
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise EngineUnavailable(f"{command[0]} does not run: {error}.") from error
    engine = EngineProcess(name, process, log, answer_type)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        process.kill()
        process.communicate()


def peer_python(folder: Path, package: str, requirement: str = "") -> Path:
    """The interpreter of a virtual environment in `folder` that has `package`; it is made when first needed.

    Peers stay out of the project's own environment. `requirement` names the version where it matters.

    Raises: EngineUnavailable when the package cannot be installed.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        _install([sys.executable, "-m", "venv", str(folder)])
    found = subprocess.run([python, "-c", f"import {package}, onnxruntime, uvloop"], capture_output=True, timeout=60)
    if found.returncode != 0:
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        _install([*pip, requirement or package, _own_onnxruntime(), *_SHARED_PACKAGES])
    return python


def _own_onnxruntime() -> str:
    """The requirement that gives the peers the ONNX Runtime that this process has."""
    try:
        return f"onnxruntime=={importlib.metadata.version('onnxruntime')}"
    except importlib.metadata.PackageNotFoundError:
        return "onnxruntime"


def _install(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnavailable(f"{' '.join(command[:4])} failed: {error}.") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise EngineUnavailable(f"pip failed: {lines[-1] if lines else 'it printed nothing'}")
