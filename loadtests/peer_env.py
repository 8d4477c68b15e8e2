"""A virtual environment for the peers, made when it is first needed, so that they stay out of the project's own.

It knows package names, not how the peers are run.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

_INSTALL_SECONDS = 300
_SHARED = ("uvloop", "httptools")


class PeerError(RuntimeError):
    """A peer cannot be installed here; the message says why."""


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{' '.join(command[:4])} failed: {error}.") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise PeerError(f"pip failed: {lines[-1] if lines else 'it printed nothing'}")


def _runtime() -> str:
    """The requirement that gives the peers the same ONNX Runtime as this process has."""
    try:
        return f"onnxruntime=={importlib.metadata.version('onnxruntime')}"
    except importlib.metadata.PackageNotFoundError:
        return "onnxruntime"


def peer_python(folder: Path, package: str, requirement: str = "") -> Path:
    """The interpreter of the environment in `folder`, with `package` installed; `requirement` says which, if not any.

    Raises: PeerError.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    found = subprocess.run([python, "-c", f"import {package}, onnxruntime, uvloop"], capture_output=True, timeout=60)
    if found.returncode != 0:
        wanted = requirement or package
        _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", wanted, _runtime(), *_SHARED])
    return python
