"""Runs the command line, and answers it as another kind of server would."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import typer.testing

from service.cli.main import app
from service.telemetry.audit import NAME as AUDIT

NOBODY = "http://127.0.0.1:9"


def run(*arguments: object, **environment: str) -> typer.testing.Result:
    """Run the command line without colours; what it prints is wide enough for its tables."""
    runner = typer.testing.CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"} | environment)
    with logging_put_back():
        return runner.invoke(app, list(map(str, arguments)))


@contextmanager
def logging_put_back() -> Iterator[None]:
    """Put logging back at the end as it was: a command logs to its own standard error, which is closed by then."""
    loggers = [logging.getLogger(), logging.getLogger(AUDIT)]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


@contextmanager
def stranger(body: bytes = b"<h1>Welcome</h1>", status: int = 200, **headers: str) -> Iterator[str]:
    """A server that answers everything alike; yield its address."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            for name, value in _named(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
