"""The files of the page over HTTP: headers, caching, compression, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from pydantic_core import to_json

from service.http.playground import FOLDER, Asset, playground_routes
from service.http.routing import FastPath
from service.security import is_loopback
from service.settings import Settings
from service.tasks.registry import all_tasks
from tests.servers import RunningService

ROOT = FOLDER.parent.parent
TEXTS = sorted(file for file in FOLDER.rglob("*") if file.suffix in (".js", ".css", ".html"))
APP = "/playground/js/app.js"


def in_process(settings: Settings, *, needs_key: bool = False) -> httpx.AsyncClient:
    app = FastPath(FastAPI(), playground_routes(settings, needs_key=needs_key))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


@pytest.fixture(scope="module")
def silent(repository: Path) -> Iterator[RunningService]:
    """A service without the page."""
    with RunningService(repository, "--no-playground") as running:
        yield running.wait_until_ready()


def test_the_root_is_the_page(client: httpx.Client) -> None:
    response = client.get("/")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == (FOLDER / "index.html").read_text()


@pytest.mark.parametrize(
    "path", ["/", APP, "/playground/css/base.css", "/playground/config.json", "/docs", "/docs/docs.js"]
)
def test_every_file_carries_a_strict_policy(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers

    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "connect-src": "'self'",
        "font-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["permissions-policy"].startswith("camera=(self)")


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        (APP, "text/javascript; charset=utf-8"),
        ("/playground/css/base.css", "text/css; charset=utf-8"),
        ("/playground/icon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
        ("/playground/config.json", "application/json"),
    ],
)
def test_files_have_the_media_types_that_browsers_require(client: httpx.Client, path: str, media_type: str) -> None:
    assert client.get(path).headers["content-type"] == media_type


def test_a_cached_file_is_not_sent_again(client: httpx.Client) -> None:
    def get(coding: str, known: str = "") -> httpx.Response:
        return client.get(APP, headers={"accept-encoding": coding} | ({"if-none-match": known} if known else {}))

    tags = {coding: get(coding).headers["etag"] for coding in ("identity", "gzip")}

    for coding, tag in tags.items():
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = get(coding, known)
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["cache-control"], again.headers["etag"]) == ("no-cache", tag)
        assert get(coding, '"other"').status_code == 200
    assert get("identity", tags["gzip"]).status_code == 200  # other bytes than those it holds


def test_text_files_are_compressed_if_accepted(client: httpx.Client) -> None:
    plain = client.get(APP, headers={"accept-encoding": "identity"})
    packed = client.get(APP, headers={"accept-encoding": "br, gzip;q=0.8"})
    refused = client.get(APP, headers={"accept-encoding": "gzip;q=0, identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content == (FOLDER / "js" / "app.js").read_bytes()
    assert int(packed.headers["content-length"]) < 0.5 * len(plain.content)
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert all("Accept-Encoding" in response.headers["vary"] for response in (plain, packed))


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_head_answers_like_get_without_the_content(client: httpx.Client, coding: str) -> None:
    for path in ("/", APP):
        get, head = (client.request(method, path, headers={"accept-encoding": coding}) for method in ("GET", "HEAD"))

        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "content-security-policy"):
            assert head.headers[name] == get.headers[name]


def test_the_page_cannot_be_written_to(client: httpx.Client) -> None:
    response = client.post("/", content=b"x")

    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert response.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/playground/../settings.py",
        "/playground/%2e%2e/settings.py",
        "/playground/js/..%2f..%2f..%2fsettings.py",
        "/playground//etc/passwd",
        "/playground/%2fetc%2fpasswd",
        "/playground/js\\app.js",
        "/playground/js/app.js%00.png",
        "/playground/js",
        "/playground/js/",
        "/playground/",
        "/playground/samples/README.md",
        "/playground/absent.js",
    ],
)
def test_only_the_files_of_the_page_are_served(service: RunningService, path: str) -> None:
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)  # it sends a path as it is
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()

    assert response.status == 404
    assert b'"code": "not_found"' in body
    assert b"BaseSettings" not in body


def test_the_page_can_be_disabled(silent: RunningService) -> None:
    with httpx.Client(base_url=silent.url) as client:
        answers = [client.get(path) for path in ("/", APP, "/playground/config.json")]

        assert [answer.status_code for answer in answers] == [404, 404, 404]
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert client.get("/v1/models").status_code == 200


async def served_config(settings: Settings, *, needs_key: bool = False) -> dict[str, object]:
    async with in_process(settings, needs_key=needs_key) as client:
        content: dict[str, object] = (await client.get("/playground/config.json")).json()
        return content


@pytest.mark.parametrize(
    ("host", "allows", "burst"),
    [
        ("127.0.0.1", False, True),
        ("127.0.8.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("models.example", False, False),
        ("0.0.0.0", True, True),
    ],
)
def test_bursts_are_allowed_on_loopback_or_by_setting(host: str, allows: bool, burst: bool) -> None:
    settings = Settings(host=host, playground_burst=allows)

    config = asyncio.run(served_config(settings, needs_key=True))

    assert is_loopback(host) is (burst and not allows)
    assert config["burst_allowed"] is burst
    assert config["needs_key"] is True


def test_the_page_is_not_part_of_the_documented_api(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    assert not [path for path in paths if path == "/" or path.startswith("/playground")]


def test_every_file_of_the_page_stays_small() -> None:
    lengths = {file.relative_to(FOLDER).as_posix(): file.read_text().count("\n") for file in TEXTS}

    assert len(lengths) > 10
    assert {name: length for name, length in lengths.items() if length >= 320} == {}


def test_no_file_holds_inline_code_or_styles_or_addresses_of_others() -> None:
    forbidden = {
        ".html": r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:",
        ".js": r"setAttribute\(\"style\"|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function",
        ".css": r"@import",
    }
    foreign = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9-]+\.[a-z]")

    found = {}
    for file in TEXTS:
        text = file.read_text()
        hits = re.findall(forbidden[file.suffix], text) + foreign.findall(text)
        if hits:
            found[file.name] = hits
    assert found == {}


def test_every_file_that_a_module_names_exists() -> None:
    missing = []
    for file in TEXTS:
        text = file.read_text()
        if file.suffix == ".js":
            named = [file.parent / name for name in re.findall(r"(?:from|import\()\s*\"(\.[^\"]+)\"", text)]
            named += [FOLDER / "css" / f"{name}.css" for name in re.findall(r"useStyle\(\"(\w+)\"\)", text)]
        else:
            named = [FOLDER / name for name in re.findall(r"\"/playground/([^\"]+)\"", text)]
        missing += [f"{file.name} names {name.name}" for name in named if not name.is_file()]

    assert missing == []


def test_the_files_of_the_page_are_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    patterns = project["tool"]["setuptools"]["package-data"]["service"]
    packaged = {file for pattern in patterns for file in (ROOT / "service").glob(pattern)}
    assert set(TEXTS) <= packaged


def test_the_compressed_file_is_made_once_and_is_the_same_each_time() -> None:
    content = to_json({"name": ["value"] * 100})
    first, second = Asset.of("application/json", content), Asset.of("application/json", content)

    assert first == second
    assert first.packed is not None
    assert gzip.decompress(first.packed) == content
    assert Asset.of("image/png", bytes(range(256))).packed is None


def test_each_task_has_the_page_that_it_names() -> None:
    words = (FOLDER / "js" / "tasks.js").read_text()

    for task in filter(lambda task: task.page, all_tasks().values()):
        assert (FOLDER / "js" / "pages" / f"{task.page}.js").is_file()
        assert f'{{ task: "{task.name}", page: "{task.page}", ' in words
