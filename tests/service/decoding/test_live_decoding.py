"""Hostile images sent to a running service: their deadline holds, and honest callers notice little."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import monotonic

import httpx
import pytest

from service.security import Key, digest_of, make_key
from tests.models.samples import jpeg_with_scans, sample
from tests.servers import RunningService

SLOW = jpeg_with_scans(5000, 5000, 24)  # takes about a second
TIMEOUT = {"X-Request-Timeout": "0.2"}
HONEST, HOSTILE = make_key(), make_key()


@pytest.fixture(scope="module")
def keyed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that knows two callers and has two decoders."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    lines = [Key(name=name, digest=digest_of(key)).line() for name, key in (("honest", HONEST), ("hostile", HOSTILE))]
    file.write_text("".join(f"{line}\n" for line in lines))
    with RunningService(repository, "--decoders", "2", "--api-keys-file", str(file)) as running:
        yield running.wait_until_ready()


def caller(service: RunningService, key: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"X-Api-Key": key}, timeout=30)


def as_image(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/v1/models/photo/classify", content=body, headers=TIMEOUT)


def as_base64(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/v1/models/photo/embed", json={"images": [b64encode(body).decode()]}, headers=TIMEOUT)


def as_multipart(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/v1/models/photo/classify", files=[("file", ("a.jpg", body))], headers=TIMEOUT)


def as_tensor(client: httpx.Client, body: bytes) -> httpx.Response:
    raw = struct.pack("<I", len(body)) + body
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"timeout": 200_000}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return client.post("/v2/models/photo/infer", content=head + raw, headers=length)


@pytest.mark.parametrize("send", [as_image, as_base64, as_multipart, as_tensor])
def test_the_deadline_covers_decoding(
    keyed: RunningService, send: Callable[[httpx.Client, bytes], httpx.Response]
) -> None:
    with caller(keyed, HONEST) as client:
        started = monotonic()
        response = send(client, SLOW)
        assert monotonic() - started < 1
    assert response.status_code in (503, 504)  # the Open Inference Protocol has no 504
    assert "deadline" in response.text


@pytest.mark.parametrize("send", [as_image, as_base64, as_multipart, as_tensor])
def test_too_many_scans_are_refused_on_every_way_in(
    keyed: RunningService, send: Callable[[httpx.Client, bytes], httpx.Response]
) -> None:
    with caller(keyed, HONEST) as client:
        client.post("/v1/models/photo/classify", content=sample("ankle_boot_on_paper.jpg"))  # starts a decoder
        response = send(client, jpeg_with_scans(5000, 5000, 256))
    assert response.status_code in (400, 413, 422)
    assert "has over 24 scans" in response.text


def test_an_honest_photograph_does_not_wait_for_hostile_ones(keyed: RunningService) -> None:
    done = Event()

    def attack() -> None:
        with caller(keyed, HOSTILE) as client:
            while not done.is_set():
                client.post("/v1/models/photo/classify", content=SLOW)

    with ThreadPoolExecutor(4) as attackers, caller(keyed, HONEST) as client:
        attacks = [attackers.submit(attack) for _ in range(4)]
        try:
            waits = [seconds_of(client) for _ in range(4)]
        finally:
            done.set()
    assert [attack.result() for attack in attacks] == [None] * 4
    assert sorted(waits)[1] < 1, waits  # with one queue for all, each waited for four images: some seconds


def seconds_of(client: httpx.Client) -> float:
    started = monotonic()
    response = client.post("/v1/models/photo/classify", content=sample("ankle_boot_on_paper.jpg"))
    assert response.status_code == 200
    return monotonic() - started
