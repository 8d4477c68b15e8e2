"""TLS for HTTP and gRPC: the service's certificate and its callers' authority, read again when their files change.

A connection that is open keeps what it began with, so nothing is dropped. It knows neither protocol.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from service.errors import StartupError
from service.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""How often the files are looked at, when connections come."""

Stamp = tuple[tuple[int, int, int], ...]


class Identity(NamedTuple):
    """What new connections are offered: a context, and the same in PEM; `client_ca` is empty if callers need none."""

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes


class Tls:
    """The files of the settings, and what was in them when they last made sense."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the files.

        Raises: StartupError, which names the file and the option.
        """
        self._files = {
            option: Path(file)
            for option, file in (
                ("--tls-certificate", settings.tls_certificate),
                ("--tls-key", settings.tls_key),
                ("--tls-client-ca", settings.tls_client_ca),
            )
            if file
        }
        self._clock = clock
        self._failed_stamp: Stamp = ()
        self._checked_at = clock()
        try:
            self._stamp = self._stamps()
            self._identity = self._read()
        except OSError as error:
            raise StartupError(f"TLS cannot be served. {self._explained(error)}") from error

    def identity(self) -> Identity:
        """What new connections are offered; files that make no sense leave it as it was."""
        now = self._clock()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._refresh()
        return self._identity

    def _refresh(self) -> None:
        stamp: Stamp = ((0, 0, 0),)
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return
            identity = self._read()
            if self._stamps() != stamp:  # they are being written; the next look will do
                return
        except OSError as error:  # as are those of `ssl`
            if stamp != self._failed_stamp:
                log.warning("the files for TLS changed, but cannot be used: %s", self._explained(error))
            self._failed_stamp = stamp
            return
        self._stamp, self._identity = stamp, identity
        log.info("the files for TLS were read again")

    def _stamps(self) -> Stamp:
        found = (file.stat() for file in self._files.values())
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _read(self) -> Identity:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        certificate, key, *client_ca = self._files.values()
        context.load_cert_chain(certificate, key, password="")  # else one that is encrypted would ask the terminal
        for file in client_ca:
            context.load_verify_locations(file)
            context.verify_mode = ssl.CERT_REQUIRED
        authority = b"".join(file.read_bytes() for file in client_ca)
        return Identity(context, certificate.read_bytes(), key.read_bytes(), authority)

    def _explained(self, error: OSError) -> str:
        named = ", ".join(f"{option} {str(file)!r}" for option, file in self._files.items())
        reason = error.strerror if isinstance(error.strerror, str) else str(error)
        if isinstance(error, ssl.SSLError):
            reason = f"{(error.reason or 'NOT PEM').replace('_', ' ').lower()}"
        where = f" ({error.filename})" if error.filename else ""
        return f"{named}: {reason}{where}; they must be PEM files, and the key that of the certificate, not encrypted."


class ServerContext(ssl.SSLContext):
    """A context whose every new connection is that of the identity of then."""

    tls: Tls

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection."""
        return self.tls.identity().context.wrap_bio(*arguments, **options)


def server_context(tls: Tls) -> ServerContext:
    """The context to listen with."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.tls = tls
    return context
