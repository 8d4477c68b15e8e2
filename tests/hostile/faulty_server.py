"""A small server with seeded faults, one a path: what the detectors of hostile tests must catch.

It prints its port. `/livez` is answered at once, unless another path has stopped the loop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

KEPT: list[bytearray] = []


def burn() -> None:
    """A second of computing beside the loop, which hardly notices."""
    end = time.thread_time() + 1.5
    while time.thread_time() < end:
        time.sleep(0.0)


class Faulty(BaseHTTPRequestHandler):
    """Answers everything with 200, in one thread for all callers, as a loop has."""

    def do_GET(self) -> None:
        if self.path == "/stall":
            time.sleep(1.5)
        elif self.path == "/grow":
            KEPT.append(bytearray(b"x") * (150 * 2**20))
        elif self.path == "/leak":
            KEPT.append(bytearray(b"x") * 2**18)
        elif self.path == "/burn":
            threading.Thread(target=burn).start()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Faulty)
    print(server.server_port, flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
