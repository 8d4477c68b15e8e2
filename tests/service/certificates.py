"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """An authority, and what it signed, as PEM files in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        subject = ("-x509", "-days", "2", "-subj", f"/CN={name}")
        _openssl("req", *_KEY, *subject, "-keyout", str(self._key), "-out", str(self.certificate))

    def sign(self, name: str) -> tuple[Path, Path]:
        """A new certificate for this machine, and its key."""
        certificate, key, request = (self.folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        _openssl("req", *_KEY, *names, "-keyout", str(key), "-out", str(request))
        by = ("-CA", str(self.certificate), "-CAkey", str(self._key), "-days", "2", "-copy_extensions", "copyall")
        _openssl("x509", "-req", "-in", str(request), *by, "-out", str(certificate))
        return certificate, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
