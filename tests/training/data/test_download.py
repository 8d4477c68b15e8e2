"""Downloads against a server on the loopback: resuming, checksums, and servers that misbehave."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from training.data.download import Resource, fetch
from training.data.formats import DataError

CONTENT = bytes(range(256)) * 4000


@dataclass
class FileServer:
    """A server of one file, and what was asked of it."""

    url: str = ""
    understands_ranges: bool = True
    bytes_before_hang_up: int | None = None
    ranges: list[str | None] = field(default_factory=list)

    def resource(self, sha256: str | None = None) -> Resource:
        return Resource(f"{self.url}/file.bin", sha256 or hashlib.sha256(CONTENT).hexdigest())


@contextmanager
def serve() -> Iterator[FileServer]:
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.ranges.append(asked)
            offset = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.understands_ranges else 0
            body = CONTENT[offset:]
            if self.path != "/file.bin" or not body:
                self.send_error(416 if self.path == "/file.bin" else 404)
                return
            self.send_response(206 if offset else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.bytes_before_hang_up])

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as state:
        yield state


def test_a_file_is_downloaded_once(server: FileServer, tmp_path: Path) -> None:
    path = fetch(server.resource(), tmp_path / "cache")
    assert path == tmp_path / "cache" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(server.resource(), tmp_path / "cache") == path
    assert server.ranges == [None]
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_broken_download_continues_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    server.bytes_before_hang_up = 300_000
    message = f"the connection ended after 300000 of {len(CONTENT)} bytes; run again to continue"
    with pytest.raises(DataError, match=message):
        fetch(server.resource(), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    server.bytes_before_hang_up = None
    assert fetch(server.resource(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_server_without_ranges_is_asked_once_more_for_everything(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"\xff" * 1000)
    server.understands_ranges = False
    assert fetch(server.resource(), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_partial_file_that_is_whole_is_taken(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server.resource(), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_copy_removed(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has SHA-256 [0-9a-f]{{64}}; published is {'0' * 64}"):
        fetch(server.resource("0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cached_file_is_refused_and_removed(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"damaged")
    with pytest.raises(DataError, match="The copy was removed"):
        fetch(server.resource(), tmp_path)
    assert fetch(server.resource(), tmp_path).read_bytes() == CONTENT


def test_an_address_that_fails_is_named(server: FileServer, tmp_path: Path) -> None:
    address = f"{server.url}/missing.bin"
    with pytest.raises(DataError, match=re.escape(f"{address} could not be downloaded: HTTP Error 404")):
        fetch(Resource(address, "0" * 64), tmp_path)
