"""A hub in memory: those endpoints of Hugging Face's that pushes and pulls use, with commits and large files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.service.exchange.http_server import Answer, Request, routed, serving

TOKEN = "hf_ours"
REPOSITORY = r"([\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class Stored:
    """A file: its content, and whether it lies outside of Git."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_hash(self) -> str:
        content = self.content
        if self.is_large:
            content = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                self.sha256.encode(),
                len(self.content),
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_hash


Files = dict[str, Stored]


class MemoryHub:
    """Repositories of commits; a test may send other bytes for a file than those that were stored."""

    def __init__(self) -> None:
        self.url = ""
        self.refs: dict[tuple[str, str], str] = {}
        self.commits: dict[str, Files] = {}
        self.sent_instead: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self._large: dict[str, bytes] = {}
        self._routes: dict[str, Callable[..., Answer]] = {
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": lambda _: _json({"errors": [], "warnings": []}),
            rf"POST /api/models/{REPOSITORY}/branch/(.+)": self._branch,
            rf"POST /api/models/{REPOSITORY}/preupload/(.+)": self._preupload,
            rf"POST /{REPOSITORY}\.git/info/lfs/objects/batch": self._batch,
            r"PUT /large/(\w+)": self._take_large,
            rf"POST /api/models/{REPOSITORY}/commit/(.+)": self._commit,
            rf"GET /api/models/{REPOSITORY}/revision/(.+)": self._info,
            rf"GET /api/models/{REPOSITORY}/tree/(.+)": self._tree,
            rf"GET /api/models/{REPOSITORY}": lambda request, name: self._info(request, name, "main"),
            rf"(?:GET|HEAD) /{REPOSITORY}/resolve/([^/]+)/(.+)": self._file,
        }

    @contextmanager
    def running(self) -> Iterator[MemoryHub]:
        with serving(self._handle) as host:
            self.url = f"http://{host}"
            yield self

    def files(self, repository: str, revision: str = "main") -> Files:
        return self.commits[self.refs[repository, revision]]

    def add(self, repository: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Commit files."""
        stored = {name: Stored(content, _is_large(name)) for name, content in files.items()}
        return self._committed(repository, revision, stored)

    def _committed(self, repository: str, revision: str, files: Files) -> str:
        whole = self.commits.get(self.refs.get((repository, revision), ""), {}) | files
        listing = json.dumps({name: file.git_hash for name, file in whole.items()}, sort_keys=True)
        commit = hashlib.sha1(f"{len(self.commits)} {listing}".encode()).hexdigest()
        self.commits[commit] = whole
        self.refs[repository, revision] = commit
        return commit

    def _handle(self, request: Request) -> Answer:
        # The address of a large file is a secret itself.
        is_open = request.method in ("GET", "HEAD") or request.path.startswith(("/api/validate-yaml", "/large/"))
        if not is_open and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401, b'{"error": "Invalid username or password."}')
        return routed(self._routes, request)

    def _create(self, request: Request) -> Answer:
        wanted = json.loads(request.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if (name, "main") in self.refs else 200
        if status == 200:
            self._committed(name, "main", {".gitattributes": Stored(b"*.onnx filter=lfs\n", False)})
            self.private[name] = wanted.get("private", False) or wanted.get("visibility") == "private"
        return _json({"url": f"{self.url}/{name}"}, status)

    def _branch(self, request: Request, name: str, branch: str) -> Answer:
        if (name, branch) in self.refs:
            return _json({"error": "Reference already exists"}, 409)
        self.refs[name, branch] = self.refs[name, "main"]
        return _json({}, 201)

    def _preupload(self, request: Request, name: str, revision: str) -> Answer:
        there = self.files(name, revision)
        paths = [file["path"] for file in json.loads(request.body)["files"]]
        files = [
            {"path": path, "uploadMode": "lfs" if _is_large(path) else "regular", "shouldIgnore": False}
            | ({"oid": there[path].git_hash} if path in there else {})
            for path in paths
        ]
        return _json({"files": files})

    def _batch(self, request: Request, name: str) -> Answer:
        objects = []
        for wanted in json.loads(request.body)["objects"]:
            actions = {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}
            objects.append(wanted | ({} if wanted["oid"] in self._large else {"actions": actions}))
        return _json({"transfer": "basic", "objects": objects})

    def _take_large(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return Answer(400)
        self._large[oid] = request.body
        return Answer()

    def _commit(self, request: Request, name: str, revision: str) -> Answer:
        files: Files = {}
        for line in map(json.loads, request.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Stored(self._large[value["oid"]], True)
        commit = self._committed(name, revision, files)
        return _json({"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{name}/commit/{commit}"})

    def _found(self, name: str, revision: str) -> tuple[str, Files] | Answer:
        if (name, "main") not in self.refs:
            return Answer(401, b"{}", {"x-error-code": "RepoNotFound", "x-error-message": "Repository not found"})
        commit = self.refs.get((name, revision), revision)
        if commit not in self.commits:
            return Answer(404, b"{}", {"x-error-code": "RevisionNotFound", "x-error-message": "Invalid rev id"})
        return commit, self.commits[commit]

    def _info(self, request: Request, name: str, revision: str) -> Answer:
        if isinstance(found := self._found(name, revision), Answer):
            return found
        commit, files = found
        siblings = [
            {"rfilename": path, "size": len(file.content), "blobId": file.git_hash}
            | ({"lfs": _large(file) | {"sha256": file.sha256}} if file.is_large else {})
            for path, file in files.items()
        ]
        return _json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": [], "private": False})

    def _tree(self, request: Request, name: str, revision: str) -> Answer:
        if isinstance(found := self._found(name, revision), Answer):
            return found
        return _json(
            [
                {"type": "file", "path": path, "size": len(file.content), "oid": file.git_hash}
                | ({"lfs": _large(file) | {"oid": file.sha256}} if file.is_large else {})
                for path, file in found[1].items()
            ]
        )

    def _file(self, request: Request, name: str, revision: str, path: str) -> Answer:
        if isinstance(found := self._found(name, revision), Answer):
            return found
        commit, files = found
        if path not in files:
            return Answer(404, b"{}", {"x-error-code": "EntryNotFound", "x-error-message": "Entry not found"})
        file = files[path]
        headers = {"etag": f'"{file.etag}"', "x-repo-commit": commit}
        if file.is_large:
            headers |= {"x-linked-etag": f'"{file.sha256}"', "x-linked-size": str(len(file.content))}
        return Answer(200, self.sent_instead.get(path, file.content), headers)


def _is_large(path: str) -> bool:
    return path.endswith((".onnx", ".npz", ".bin"))


def _large(file: Stored) -> dict[str, Any]:
    return {"size": len(file.content), "pointerSize": 130}


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"content-type": "application/json"})
