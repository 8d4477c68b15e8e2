"""API keys. A file holds one line `name:SHA-256 of the key` for each key, but no key itself.

The file is reloaded when it changes, as a mounted secret does. This module knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service.errors import StartupError, Unauthorized

log = logging.getLogger(__name__)

RELOAD_SECONDS = 1.0
"""The interval at which the file is checked for changes."""
_PREFIX = "hp_"
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")
_HOW = "send it as `Authorization: Bearer KEY`"


def make_key() -> str:
    """Generate a random 256-bit key."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """Hash a key as the file stores it. Keys are random, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_names(file: Path) -> dict[str, str]:
    """Read a file of keys: names by digest.

    Raises: StartupError.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"The file of API keys {str(file)!r} cannot be read: {error}.") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            # The line is not quoted: it may be a key, which must not end up in a log.
            raise StartupError(
                f"Line {number} of {str(file)!r} is not `name:SHA-256`; `hotplate keys new NAME` writes such lines."
            )
        names[match[2]] = match[1]
    return names


class KeyRing:
    """The keys that are valid now."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Raises: StartupError."""
        self._file = file
        self._clock = clock
        self._stamp = _stamp(file)
        self._names: Mapping[str, str] = read_names(file)
        self._checked_at = clock()

    def admit(self, authorization: str | None, api_key: str | None) -> str:
        """Return the name of the caller whose key is in one of the two headers.

        Raises: Unauthorized.
        """
        key = api_key
        if authorization is not None:
            scheme, _, key = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized(f"The `Authorization` scheme is not Bearer; {_HOW}.")
        if not key:
            raise Unauthorized(f"This service requires an API key; {_HOW}.")
        self._reload()
        name = self._names.get(digest_of(key.strip()))
        if name is None:
            raise Unauthorized(f"The API key is not valid; {_HOW}.")
        return name

    def _reload(self) -> None:
        if self._clock() < self._checked_at + RELOAD_SECONDS:
            return
        self._checked_at = self._clock()
        if (stamp := _stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._names = read_names(self._file)
            log.info("API keys reloaded", extra={"keys": len(self._names)})
        except StartupError as error:
            log.error("API keys not reloaded", extra={"reason": str(error)})


def _stamp(file: Path) -> tuple[int, ...]:
    """A fingerprint of the file that changes with it, or when a symlink is replaced."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
