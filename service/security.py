"""API keys: who may ask. A file holds one `name:SHA-256 of the key` a line, so that it tells no key.

The file may change while the service runs, as a mounted secret does. It knows neither HTTP nor gRPC.
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
"""How long a change of the file may go unseen."""
_PREFIX = "hp_"
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")
_HOW = "send it as `Authorization: Bearer KEY`"


def make_key() -> str:
    """Draw a new key of 256 bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """What the file holds of a key. Keys are drawn, not chosen, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_names(file: Path) -> dict[str, str]:
    """The name of each digest in a file of keys.

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
            # Not quoted: whoever put a key there by mistake must not find it in the log.
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
        self._looked_at = clock()

    def admit(self, authorization: str | None, api_key: str | None) -> str:
        """The name of the caller whose key stands in one of the two headers.

        Raises: Unauthorized.
        """
        key = api_key
        if authorization is not None:
            scheme, _, key = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized(f"The scheme of `Authorization` is not Bearer; {_HOW}.")
        if not key:
            raise Unauthorized(f"This service asks for a key; {_HOW}.")
        self._look_again()
        name = self._names.get(digest_of(key.strip()))
        if name is None:
            raise Unauthorized(f"This key is not known, or no longer; {_HOW}.")
        return name

    def _look_again(self) -> None:
        if self._clock() < self._looked_at + RELOAD_SECONDS:
            return
        self._looked_at = self._clock()
        if (stamp := _stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._names = read_names(self._file)
            log.info("the file of API keys was read again", extra={"keys": len(self._names)})
        except StartupError as error:
            log.error("the keys stay as they were", extra={"reason": str(error)})


def _stamp(file: Path) -> tuple[int, ...]:
    """What differs after a change, also where a link was turned to another file."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
