"""An OCI registry in memory: what of the distribution specification pushes and pulls use, with both ways to log in."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.service.exchange.http_server import Answer, Request, routed, serving

NAME = "(.+)"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class MemoryRegistry:
    """Blobs and manifests, which a test may change behind the back of who asks."""

    def __init__(self, login: str = "", *, wants_tokens: bool = False) -> None:
        self.host = ""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.requests: list[Request] = []
        self.num_sent: list[int] = []  # after how many bytes each next download of a blob breaks
        self.uploads_to = ""  # where blobs go, if not here
        self._login, self._wants_tokens = login, wants_tokens
        self._routes: dict[str, Callable[..., Answer]] = {
            r"GET /v2/": lambda _: Answer(),
            rf"(?:GET|HEAD) /v2/{NAME}/blobs/(sha256:\w+)": self._send_blob,
            rf"POST /v2/{NAME}/blobs/uploads/": self._begin,
            rf"PUT /v2/{NAME}/up": self._take_blob,
            rf"PUT /v2/{NAME}/manifests/(.+)": self._take_manifest,
            rf"(?:GET|HEAD) /v2/{NAME}/manifests/(.+)": self._send_manifest,
        }

    @contextmanager
    def running(self) -> Iterator[MemoryRegistry]:
        with serving(self._handle) as self.host:
            yield self

    def replace(self, old: bytes, new: bytes) -> None:
        """Change what the registry sends for a blob, as a damaged disk or an attacker does."""
        assert digest_of(old) in self.blobs
        self.blobs[digest_of(old)] = new

    def rewrite(self, path: str, tag: str, **members: Any) -> None:
        """Change members of a manifest, and say its new digest, as one who owns the registry does."""
        self.manifests[path, tag] = json.dumps(json.loads(self.manifests[path, tag]) | members).encode()

    def _handle(self, request: Request) -> Answer:
        self.requests.append(request)
        if request.path == "/token":
            return self._token(request)
        return self._refusal(request) or routed(self._routes, request)

    def _refusal(self, request: Request) -> Answer | None:
        given = request.headers.get("authorization", "")
        if not self._login:
            return None
        if not self._wants_tokens:
            return None if given == _basic(self._login) else _unauthorized('Basic realm="ours"')
        match = re.match(r"/v2/(.+)/(?:blobs|manifests|up)", request.path)
        scope = f"repository:{match[1]}:{'pull' if request.method in ('GET', 'HEAD') else 'pull,push'}" if match else ""
        if scope and given in (f"Bearer {scope}", f"Bearer {scope},push"):
            return None
        return _unauthorized(f'Bearer realm="http://{self.host}/token",service="ours",scope="{scope}"')

    def _token(self, request: Request) -> Answer:
        if request.headers.get("authorization", "") != _basic(self._login):
            return Answer(401)
        return Answer(body=json.dumps({"token": request.query["scope"]}).encode())

    def _send_blob(self, request: Request, name: str, digest: str) -> Answer:
        if digest not in self.blobs:
            return _error(404, "BLOB_UNKNOWN")
        content = self.blobs[digest]
        num_sent = self.num_sent.pop(0) if self.num_sent and request.method == "GET" else None
        if match := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
            first, last = int(match[1]), len(content) - 1
            if first > last:
                return _error(416, "RANGE_INVALID")
            headers = {"content-range": f"bytes {first}-{last}/{len(content)}"}
            return Answer(206, content[first:], headers, num_sent)
        return Answer(200, content, num_sent=num_sent)

    def _begin(self, request: Request, name: str) -> Answer:
        return Answer(202, headers={"location": self.uploads_to or f"/v2/{name}/up?session=1"})

    def _take_blob(self, request: Request, name: str) -> Answer:
        if request.query.get("digest") != digest_of(request.body):
            return _error(400, "DIGEST_INVALID")
        self.blobs[request.query["digest"]] = request.body
        return Answer(201, headers={"location": f"/v2/{name}/blobs/{request.query['digest']}"})

    def _take_manifest(self, request: Request, name: str, tag: str) -> Answer:
        manifest = json.loads(request.body)
        if any(each["digest"] not in self.blobs for each in (manifest["config"], *manifest["layers"])):
            return _error(404, "MANIFEST_BLOB_UNKNOWN")
        digest = digest_of(request.body)
        self.manifests[name, tag] = self.manifests[name, digest] = request.body
        return Answer(201, headers={"docker-content-digest": digest})

    def _send_manifest(self, request: Request, name: str, tag: str) -> Answer:
        if (name, tag) not in self.manifests:
            return _error(404, "MANIFEST_UNKNOWN")
        content = self.manifests[name, tag]
        return Answer(200, content, {"docker-content-digest": digest_of(content)})


def _basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _unauthorized(challenge: str) -> Answer:
    return _error(401, "UNAUTHORIZED", {"www-authenticate": challenge})


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), headers or {})
