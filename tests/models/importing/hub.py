"""A hub on this machine: serves a folder as a repository, by the few endpoints that huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<verb>revision|tree)/(?P<revision>[^/?]+))?(?:\?.*)?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)(?:\?.*)?")


class Hub:
    """The repository `id` with the files of a folder; `asked` are the files that were downloaded."""

    def __init__(self, id_: str, folder: Path, *, is_gated: bool = False) -> None:
        self.id, self.folder, self.is_gated = id_, folder, is_gated
        self.asked: list[str] = []
        self.url = ""

    @property
    def names(self) -> list[str]:
        return sorted(each.relative_to(self.folder).as_posix() for each in self.folder.rglob("*") if each.is_file())

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, has_body: bool) -> None:
        asked = _API.fullmatch(self.path) or _FILE.fullmatch(self.path)
        if asked is None or asked["id"] != self.hub.id:
            self._fail(HTTPStatus.UNAUTHORIZED, "RepoNotFound", has_body)
        elif asked["revision"] not in (None, "main", COMMIT):
            self._fail(HTTPStatus.NOT_FOUND, "RevisionNotFound", has_body)
        elif "name" not in asked.groupdict():
            self._send(json.dumps(self._listing(asked["verb"])).encode(), {"Content-Type": "application/json"}, True)
        elif self.hub.is_gated:
            self._fail(HTTPStatus.FORBIDDEN, "GatedRepo", has_body)
        elif asked["name"] not in self.hub.names:
            self._fail(HTTPStatus.NOT_FOUND, "EntryNotFound", has_body)
        else:
            body = (self.hub.folder / asked["name"]).read_bytes()
            if has_body:
                self.hub.asked.append(asked["name"])
            self._send(body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, has_body)

    def _listing(self, verb: str | None) -> Any:
        if verb == "tree":
            sizes = {name: (self.hub.folder / name).stat().st_size for name in self.hub.names}
            return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
        siblings = [{"rfilename": name} for name in self.hub.names]
        return {"_id": "1", "id": self.hub.id, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    def _send(self, body: bytes, headers: dict[str, str], has_body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in ({"X-Repo-Commit": COMMIT, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def _fail(self, status: HTTPStatus, code: str, has_body: bool) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, has_body, status)

    def log_message(self, format: str, *args: Any) -> None:
        return
