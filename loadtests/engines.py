"""Runs engines as processes and hands them jobs, a JSON line each.

It knows the protocol of `lines`, not what the jobs are or what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from loadtests.servers import ROOT

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Answer = TypeVar("Answer")

_LOAD_SECONDS = 600.0
_JOB_SECONDS = 600.0


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the message says why."""


class EngineProcess(Generic[Answer]):
    """The caller's end of an engine's process."""

    def __init__(
        self, name: str, process: subprocess.Popen[str], log: Path, answer_type: Callable[..., Answer]
    ) -> None:
        """Take over a started process, whose answers are of this type."""
        self.name = name
        self._process = process
        self._log = log
        self._answer_type = answer_type

    def wait_until_ready(self) -> None:
        """Wait for the engine's first line.

        Raises: EngineUnavailable.
        """
        first = json.loads(self._read(_LOAD_SECONDS))
        if "ready" not in first:
            raise EngineUnavailable(str(first.get("unavailable", first)))

    def run(self, job: DataclassInstance) -> Answer:
        """Do a job.

        Raises: EngineUnavailable when the process died.
        """
        assert self._process.stdin is not None  # asked for
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EngineUnavailable(f"it ended: {error}.") from error
        return self._answer_type(**json.loads(self._read(_JOB_SECONDS)))

    def _read(self, limit_seconds: float) -> str:
        assert self._process.stdout is not None  # asked for
        guard = threading.Timer(limit_seconds, self._process.kill)
        guard.start()
        try:
            # Whatever a library prints is no answer: those are JSON objects.
            while (line := self._process.stdout.readline()) and not line.startswith("{"):
                continue
        finally:
            guard.cancel()
        if not line:
            raise EngineUnavailable(f"it ended; its log says: {self._log.read_text(errors='replace').strip()[-400:]}")
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
    try:
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
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
