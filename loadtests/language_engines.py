"""Runs engines of a language model as processes and hands them jobs.

It knows the protocol and the commands, not what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from loadtests.language_peers.protocol import Answer, Job
from loadtests.servers import ROOT

_LOAD_SECONDS = 600.0
_JOB_SECONDS = 600.0


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the message says why."""


class EngineProcess:
    """The caller's end of an engine's process."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        """Take over a started process."""
        self.name = name
        self._process = process
        self._log = log

    def wait_until_ready(self) -> None:
        """Wait for the engine's first line.

        Raises: EngineUnavailable.
        """
        first = json.loads(self._read(_LOAD_SECONDS))
        if "ready" not in first:
            raise EngineUnavailable(str(first.get("unavailable", first)))

    def run(self, job: Job) -> Answer:
        """Do a job.

        Raises: EngineUnavailable when the process died.
        """
        assert self._process.stdin is not None  # asked for
        try:
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EngineUnavailable(f"it ended: {error}.") from error
        return Answer(**json.loads(self._read(_JOB_SECONDS)))

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
def running_engine(name: str, command: Sequence[str], threads: int, logs: Path) -> Iterator[EngineProcess]:
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
    engine = EngineProcess(name, process, log)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        process.kill()
        process.communicate()


def peer_commands(peers_python: str | None, source: Path | None, scratch: Path, threads: int) -> dict[str, list[str]]:
    """The commands of the peers by name; an empty command is a peer for which an option is missing."""
    flags = ["--source", str(source), "--scratch", str(scratch), "--threads", str(threads)]
    modules = {
        "onnxruntime-genai": "loadtests.language_peers.genai",
        "transformers": "loadtests.language_peers.transformers_batch",
        "llama.cpp": "loadtests.language_peers.llama_cpp_batch",
    }
    commands = {"plain PyTorch": [sys.executable, "-m", "training.language.plain_decoding", *flags] if source else []}
    for name, module in modules.items():
        commands[name] = [peers_python, "-m", module, *flags] if peers_python and source else []
    return commands
