"""The private folder of a running service, in which its engine's socket lies.

It is locked for as long as its supervisor lives, however that ends, so that the next service to start can tell which
folders nobody uses any more, and removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from service.errors import StartupError

log = logging.getLogger(__name__)

PREFIX = "hotplate-"
ENGINE_SOCKET = "engine-{}.sock"
"""The name of an engine's socket, by its number."""
SOCKETS = "engine*.sock"
MAX_SOCKET_PATH_BYTES = 107
"""sun_path of a Unix socket's address has 108 bytes, the last of which is 0."""
YOUNG_SECONDS = 60.0
# Where TMPDIR and the like name no place, or none that will do.
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_VARIABLES = ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Make the folder, after those of services that are dead were removed; remove it at the end.

    Raises: StartupError.
    """
    places = _places()
    for place in places:
        sweep(place)
    folder, lock = _make(places)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _places() -> list[Path]:
    named = [value for variable in _VARIABLES if (value := os.environ.get(variable))]
    return list(dict.fromkeys(Path(place) for place in (*named, *_PLACES)))


def _make(places: list[Path]) -> tuple[Path, int]:
    """Make a folder at the first place that will do, and lock it.

    Raises: StartupError.
    """
    reasons: list[str] = []
    for place in places:
        reason = _too_long(place)
        try:
            if not reason:
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
                if reasons:
                    log.warning("the engine's socket lies elsewhere", extra={"folder": folder, "reason": reasons[0]})
                return folder, _locked(folder, fcntl.LOCK_EX)
        except OSError as error:  # a disk may be full, or read-only
            reason = str(error.strerror)
        reasons.append(f"{place}: {reason}")
    raise StartupError(
        f"The folder for the engine's socket cannot be made: {'; '.join(reasons)}. TMPDIR may name another place for "
        "it, which must be writable."
    )


def _too_long(place: Path) -> str:
    """Why a socket's path below a place would be too long; empty where it would not."""
    num_bytes = len(os.fsencode(place.absolute() / f"{PREFIX}12345678" / ENGINE_SOCKET.format(99)))
    return f"its path has {num_bytes} bytes, {MAX_SOCKET_PATH_BYTES} fit" if num_bytes > MAX_SOCKET_PATH_BYTES else ""


def _locked(folder: Path, how: int) -> int:
    """Open a folder and lock it. Raises: OSError."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, how)
    except OSError:
        os.close(lock)
        raise
    return lock


def sweep(place: Path) -> None:
    """Remove the folders of services of this user that are dead."""
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{PREFIX}*"):
            if not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid():
                _sweep(folder)


def _sweep(folder: Path) -> None:
    try:
        lock = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its service lives
        return
    try:
        # What holds anything else is somebody else's. A young one that is empty may be about to be locked.
        is_young = time.time() - folder.stat().st_mtime < YOUNG_SECONDS
        found = os.listdir(folder)
        if all(fnmatch(name, SOCKETS) for name in found) and (found or not is_young):
            _remove(folder)
            log.info("the folder of a service that is dead was removed", extra={"folder": str(folder)})
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for socket in folder.glob(SOCKETS):
            socket.unlink(missing_ok=True)
        folder.rmdir()
