"""The container image's HEALTHCHECK: `python -m service.processes.probe [PATH]`.

It exits with 0 where the service is ready, and otherwise with 1 and the reason. It finds the service by HOTPLATE_HOST
and HOTPLATE_PORT; where HOTPLATE_TLS_CERTIFICATE is set, it takes any certificate and presents that one. It needs
neither a shell nor curl, and imports nothing of the service, so that it is cheap to run every few seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import sys
from collections.abc import Mapping, Sequence

READINESS = "/readyz"
TIMEOUT_SECONDS = 4.0
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the service answers; one that listens on every address is asked on loopback."""
    host, port = environment.get("HOTPLATE_HOST", ""), environment.get("HOTPLATE_PORT", "")
    # Kubernetes sets HOTPLATE_PORT=tcp://10.0.0.1:80 for a Service called hotplate, which is no setting.
    return _LOOPBACK.get(host, host), int(port) if port.isdecimal() else 8000


def trust(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    """How to ask a service with TLS: whatever it presents is right, for it is this one."""
    certificate, key = environment.get("HOTPLATE_TLS_CERTIFICATE", ""), environment.get("HOTPLATE_TLS_KEY", "")
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError):  # the service presents what it read before
        context.load_cert_chain(certificate, key, password="")
    return context


def probe(
    host: str,
    port: int,
    path: str = READINESS,
    timeout_seconds: float = TIMEOUT_SECONDS,
    context: ssl.SSLContext | None = None,
) -> str:
    """Ask once, with TLS if there is a context, and return what is wrong, or an empty text."""
    connection = (
        http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=context)
    )
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        content = response.read(1024).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer {path}: {error}."
    finally:
        connection.close()
    return "" if response.status == 200 else f"{host}:{port} answers {path} with {response.status}: {content}"


def main(arguments: Sequence[str] = ()) -> int:
    """Probe the service that the environment describes and return the exit status."""
    path = arguments[0] if arguments else READINESS
    wrong = probe(*address(os.environ), path, context=trust(os.environ))
    if wrong:
        sys.stderr.write(f"{wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
