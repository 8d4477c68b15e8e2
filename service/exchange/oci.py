"""An OCI registry as a place for versions: one artifact a version, one layer a file.

Everything that arrives is checked here, since a registry may be damaged, or hostile: the manifest against the digest
that was asked for, each layer against the digest and the size in the manifest, each title against what may be a file's
name. Formats: OCI image specification 1.1 and OCI distribution specification 1.1.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import msgspec
import oras.auth
import oras.container
import oras.logger
import oras.provider
import oras.utils
import requests
from requests.adapters import HTTPAdapter
from rich.progress import Progress
from urllib3.util import Retry

from models.strict import FILE_NAME
from service.exchange.version import (
    ExchangeFailed,
    Received,
    Refused,
    Version,
    require_space,
    sha256_of,
)

ARTIFACT_TYPE = "application/vnd.hotplate.model.v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TASK_ANNOTATION = "io.github.hotplate.task"
_EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "size": 2,
    "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
}
_FILE_TYPE = "application/octet-stream"
_STANDARD = "org.opencontainers.image"
_TITLE = f"{_STANDARD}.title"

MAX_MANIFEST_BYTES = 4 << 20  # what the specification says that registries should take
_CHUNK_BYTES = 1 << 16
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_NUM_TRIES = 4

_DIGEST = r"sha256:[0-9a-f]{64}"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d+)?)/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)

# It prints what the errors here say better.
oras.logger.logger.set_level(logging.CRITICAL)


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob as a manifest describes it."""

    digest: str
    size: int
    annotations: dict[str, str] | None = None

    @property
    def title(self) -> str | None:
        return (self.annotations or {}).get(_TITLE)


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """What a pull reads of an image manifest."""

    layers: list[_Descriptor]
    media_type: str = ""
    artifact_type: str = ""
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """A tag of a repository in a registry, which may be pinned to a digest."""

    host: str
    path: str
    tag: str
    digest: str | None
    is_insecure: bool

    @classmethod
    def parse(cls, address: str, *, is_insecure: bool) -> Registry:
        """Parse `host/path:tag@sha256:...`; the tag is `latest` without one.

        Raises: ValueError.
        """
        if (match := _REFERENCE.fullmatch(address)) is None:
            raise ValueError(f"oci://{address} is no address; use oci://host/path:tag, in lower case.")
        return cls(match["host"], match["path"], match["tag"] or "latest", match["digest"], is_insecure)

    def __str__(self) -> str:
        return f"oci://{self.host}/{self.path}:{self.tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def scheme(self) -> str:
        """Plain HTTP where it is asked for, and to this machine itself."""
        return "http" if self.is_insecure or _is_loopback(self.host) else "https"

    def push(self, version: Version, license_id: str, progress: Progress) -> str:
        """Send a version, without the files that the registry has, and return its address with the digest.

        Raises: ExchangeFailed.
        """
        if self.digest is not None:
            raise ExchangeFailed(
                f"{self} has a digest, which only a push makes; push to oci://{self.host}/{self.path}:{self.tag}."
            )
        with progress, _connected(self) as client:
            layers = []
            for file in version.files:
                described = {
                    "mediaType": _FILE_TYPE,
                    "size": file.stat().st_size,
                    "digest": f"sha256:{sha256_of(file)}",
                }
                with progress.open(file, "rb", description=file.name) as content:
                    client.upload(described, content)
                layers.append(described | {"annotations": {_TITLE: file.name}})
            client.upload(_EMPTY, b"{}")
            manifest = _manifest(version, layers, license_id)
            answer = client.upload_manifest(manifest, client.container)
            client.require(answer, "manifest")
        return f"{self}@sha256:{hashlib.sha256(answer.request.body).hexdigest()}"

    def pull(self, folder: Path, progress: Progress) -> Received:
        """Fetch every file of the artifact, each of which must have its digest and its size.

        Raises: Refused for what is not as it says; ExchangeFailed.
        """
        with progress, _connected(self) as client:
            manifest = client.manifest()
            files = _files(manifest)
            require_space(folder, sum(layer.size for layer in files.values()))
            for name, layer in files.items():
                task = progress.add_task(name, total=layer.size)
                with (folder / name).open("xb") as file:
                    for num_bytes in client.download(layer, name, file):
                        progress.update(task, completed=num_bytes)
        notes = manifest.annotations or {}
        return Received(notes.get(_TITLE, self.path.rsplit("/", 1)[-1]), notes.get(f"{_STANDARD}.version", "1"))


def _manifest(version: Version, layers: list[dict[str, Any]], license_id: str) -> dict[str, Any]:
    """The image manifest; the same version has the same one, and so the same digest, wherever it is pushed."""
    notes = {
        _TITLE: version.name,
        f"{_STANDARD}.version": version.version,
        f"{_STANDARD}.description": version.description,
        TASK_ANNOTATION: version.task,
    }
    if license_id:
        notes[f"{_STANDARD}.licenses"] = license_id
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _EMPTY,
        "layers": layers,
        "annotations": notes,
    }


def _files(manifest: _Manifest) -> dict[str, _Descriptor]:
    """The layers by the names of their files.

    Raises: Refused where a title is no plain name, or a layer is not described well.
    """
    files: dict[str, _Descriptor] = {}
    for layer in manifest.layers:
        title = layer.title
        if title is None:
            kind = manifest.artifact_type or manifest.media_type
            raise Refused(
                f"It holds no model: a layer has no title, which would be its file's name. Its type is {kind!r}."
            )
        if not FILE_NAME.fullmatch(title):
            raise Refused(f"A layer has the title {title!r}; a file's name must match {FILE_NAME.pattern}.")
        if title in files:
            raise Refused(f"Two layers have the title {title!r}.")
        if not re.fullmatch(_DIGEST, layer.digest) or layer.size < 0:
            raise Refused(f"{title} has the digest {layer.digest!r} and {layer.size} bytes; it must be a SHA-256.")
        files[title] = layer
    if not files:
        raise Refused(f"It has no layers, so it holds no model. Its type is {manifest.artifact_type!r}.")
    return files


class _Client(oras.provider.Registry):  # type: ignore[misc]  # the library has no types
    """The library's client of one repository, patient where it pays, with both ways to log in."""

    session: requests.Session

    def __init__(self, place: Registry) -> None:
        self._place = place
        self._base = f"{place.scheme}://{place.host}/v2/{place.path}"
        with _patient(requests.Session()) as session:  # the registry says how it wants to be asked
            challenge = session.get(f"{place.scheme}://{place.host}/v2/").headers.get("www-authenticate", "")
        backend = "basic" if challenge.lower().startswith("basic") else "token"
        super().__init__(place.host, insecure=place.scheme == "http", auth_backend=backend)
        _patient(self.session)
        self.container = _container(place)
        self.auth.load_configs(self.container, _docker_configs())

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request, and again with a new token where the last has too small a scope.

        The library's own would try for two minutes what nobody answers, and keep the first token.
        """
        # Blobs may lie elsewhere; what logs in here must not go there.
        is_here = urlsplit(url)[:2] == (self._place.scheme, self._place.host)
        headers = (headers or {}) | (self._credentials() if is_here else {})
        answer = self.session.request(method, url, data=data, headers=headers, json=json, stream=stream)
        asks_for_token = answer.status_code == 401 and "realm=" in answer.headers.get("www-authenticate", "")
        if not asks_for_token or not is_here or not isinstance(self.auth, oras.auth.TokenAuth):
            return answer
        headers, is_changed = self.auth.authenticate_request(answer, headers, refresh=True)
        if not is_changed:
            return answer
        answer.close()
        if hasattr(data, "seek"):
            data.seek(0)
        return self.session.request(method, url, data=data, headers=headers, json=json, stream=stream)

    def _credentials(self) -> dict[str, str]:
        if isinstance(self.auth, oras.auth.TokenAuth) or hasattr(self.auth, "_basic_auth"):
            return dict(self.auth.get_auth_header())
        return {}

    def upload(self, blob: dict[str, Any], content: BinaryIO | bytes) -> None:
        """Send a blob that the registry does not have."""
        if self.blob_exists(blob, self.container):
            if not isinstance(content, bytes):
                content.seek(0, os.SEEK_END)
            return
        url = f"{self._base}/blobs/uploads/"
        begun = self.require(self.do_request(url, "POST", headers={"Content-Length": "0"}), "upload")
        to = oras.utils.append_url_params(urljoin(url, begun.headers["location"]), {"digest": blob["digest"]})
        headers = {"Content-Type": _FILE_TYPE}
        # A file without bytes would be sent in chunks, for want of a length.
        self.require(self.do_request(to, "PUT", data=content if blob["size"] else b"", headers=headers), "upload")

    def manifest(self) -> _Manifest:
        """The manifest, whose digest is the one that was asked for, or that the registry itself states."""
        wanted = self._place.digest or self._place.tag
        url = f"{self._base}/manifests/{wanted}"
        answer = self.require(
            self.do_request(url, headers={"Accept": MANIFEST_TYPE}, stream=True), f"manifest {wanted!r}"
        )
        content = b""
        with answer:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_MANIFEST_BYTES:
                    raise Refused(f"The manifest has more than {MAX_MANIFEST_BYTES:,} bytes.")
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        stated = self._place.digest or answer.headers.get("docker-content-digest", digest)
        if digest != stated:
            raise Refused(f"The manifest has the digest {digest}, not {stated}: it was changed or damaged.")
        try:
            return msgspec.json.decode(content, type=_Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(f"It holds no model; its manifest is not that of an artifact: {error}.") from error

    def download(self, blob: _Descriptor, name: str, file: BinaryIO) -> Iterator[int]:
        """Write a blob to a file, and yield how many bytes of it are there.

        A connection that breaks is made again, and goes on where it broke.
        """
        reason = ""
        for _ in range(_NUM_TRIES):
            try:
                yield from self._continue(blob, name, file)
            except requests.RequestException as error:
                reason = f": {error}"
            if file.tell() == blob.size:
                break
        file.flush()
        if file.tell() != blob.size:
            raise Refused(f"{name} ended after {file.tell():,} of its {blob.size:,} bytes{reason}.")
        if (digest := f"sha256:{sha256_of(Path(file.name))}") != blob.digest:
            raise Refused(f"{name} has the digest {digest}, not {blob.digest}: it was changed or damaged.")

    def _continue(self, blob: _Descriptor, name: str, file: BinaryIO) -> Iterator[int]:
        headers = {"Accept-Encoding": "identity"}  # the digest is that of the bytes as they are sent
        if file.tell():
            headers["Range"] = f"bytes={file.tell()}-"
        answer = self.do_request(f"{self._base}/blobs/{blob.digest}", headers=headers, stream=True)
        with self.require(answer, name):
            if answer.status_code != 206:
                file.seek(0)
                file.truncate()
            for chunk in answer.iter_content(_CHUNK_BYTES):
                if file.tell() + len(chunk) > blob.size:
                    raise Refused(f"{name} has more than the {blob.size:,} bytes that the manifest states.")
                file.write(chunk)
                yield file.tell()

    def require(self, answer: requests.Response, what: str) -> requests.Response:
        """Make sure of a success.

        Raises: ExchangeFailed.
        """
        if answer.ok:
            return answer
        detail, place = _detail(answer), self._place
        if answer.status_code in (401, 403):
            raise ExchangeFailed(
                f"{answer.status_code} from {place.host}: it does not let you use {place.path!r}. Log in with "
                f"`docker login {place.host}` or `oras login {place.host}`."
            )
        if answer.status_code == 404:
            raise ExchangeFailed(f"404 from {place.host}: {place.path!r} has no {what}.")
        raise ExchangeFailed(f"{answer.status_code} from {place.host} for {what}: {detail}")


class _Adapter(HTTPAdapter):
    """Sets a timeout, which the libraries do not."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        return super().send(request, *arguments, **options | {"timeout": (_CONNECT_SECONDS, _READ_SECONDS)})


def _patient(session: requests.Session) -> requests.Session:
    """The session, which now tries again, for a second or two, what a busy registry refuses."""
    retry = Retry(total=3, connect=2, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(max_retries=retry))
    return session


def _container(place: Registry) -> Any:
    """The library's form of an address, which its own parser reads otherwise where a host has no dot."""
    container = oras.container.Container("model")
    container.namespace, _, container.repository = place.path.rpartition("/")
    container.registry, container.tag, container.digest = place.host, place.tag, None
    return container


def _docker_configs() -> list[str]:
    """The configuration that DOCKER_CONFIG names; the library adds the one in the home folder."""
    file = Path(os.environ.get("DOCKER_CONFIG", "/nowhere")) / "config.json"
    return [str(file)] if file.is_file() else []


def _is_loopback(host: str) -> bool:
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _detail(answer: requests.Response) -> str:
    """What a registry says about an error."""
    try:
        return "; ".join(f"{error['code']}: {error.get('message', '')}" for error in answer.json()["errors"])
    except (ValueError, KeyError, TypeError):
        return f"the answer is not a registry's: {answer.text[:200]!r}"


@contextmanager
def _connected(place: Registry) -> Iterator[_Client]:
    """A client, and in one line what the libraries raise.

    Raises: ExchangeFailed.
    """
    try:
        client = _Client(place)
        with client.session:
            yield client
    except requests.exceptions.SSLError as error:
        raise ExchangeFailed(f"{place.host} has no valid certificate; --insecure uses plain HTTP. {error}") from error
    except requests.RequestException as error:
        reason = getattr(error.args[0], "reason", error) if error.args else error
        raise ExchangeFailed(f"No registry answers at {place.scheme}://{place.host}: {reason}") from error
    except Refused as error:
        raise Refused(f"{place} is refused. {error}") from error
