"""Requests whose heads are known, over real connections: answered as the first one was, whatever else goes on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.security import digest_of
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.http.calls import CLASSIFY, EMBED, as_json, encoded
from tests.service.http.test_protocol import ApiConnection, statuses

WINDOW_SECONDS = 0.3
BODY_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 3
KEY = "hp_known"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"tester:{digest_of(KEY)}\n")
    return file


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier, keys_file: Path
) -> Iterator[RunningService]:
    """One API process, `scale` (x -> 2x), `patient` (the same, after a while) and a classifier, with API keys."""
    folder = tmp_path_factory.mktemp("repository")
    write_bare(folder, "scale", scale_bytes(2))
    write_bare(folder, "patient", scale_bytes(2))
    (folder / "patient" / "config.toml").write_text(f"max_queue_delay_seconds = {WINDOW_SECONDS}\n")
    network.write(folder, "tiny")
    options = ("--api-keys-file", str(keys_file), "--body-timeout-seconds", str(BODY_SECONDS))
    limits = ("--max-body-bytes", "1000000", "--keep-alive-seconds", str(KEEP_ALIVE_SECONDS))
    with RunningService(folder, *options, *limits) as service:
        yield service.wait_until_ready()


def infer(x: np.ndarray, model: str = "scale", key: str = KEY, **headers: str) -> bytes:
    """A whole request with one raw tensor [B,3]."""
    head = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: h",
        f"Authorization: Bearer {key}",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(text) + x.nbytes}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + text + x.tobytes()


def row(value: float) -> np.ndarray:
    return np.full((1, 3), value, np.float32)


def read_answers(peer: ApiConnection, count: int) -> list[bytes]:
    """Read answers with a Content-Length until there are so many; each with its head."""
    received = b""
    answers: list[bytes] = []
    while len(answers) < count:
        data = peer.socket.recv(65536)
        if not data:
            break
        received += data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            length = int(re.findall(rb"\r\ncontent-length: (\d+)", received[:end])[0])
            if len(received) < end + 4 + length:
                break
            answers.append(received[: end + 4 + length])
            received = received[end + 4 + length :]
    return answers


def value_in(answer: bytes) -> float:
    return float(np.frombuffer(answer[-4:], np.float32)[0])


def test_a_known_head_is_answered_as_the_first_one_was(running: RunningService, network: LinearClassifier) -> None:
    image, text = network.images(1)[0], json.dumps(as_json(network.images(2))).encode()
    raw, png = (image.tobytes(), "application/octet-stream"), (encoded(image), "image/png")
    requests = [(path, *body) for path in (CLASSIFY, f"{CLASSIFY}?top_k=2&invert=true", EMBED) for body in (raw, png)]
    requests += [(f"{CLASSIFY}?explain=true", *png), (CLASSIFY, text, "application/json")]
    with httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        for path, content, kind in requests:
            first, *others = (client.post(path, content=content, headers={"content-type": kind}) for _ in range(3))
            for other in others:
                assert other.status_code == first.status_code == 200
                assert other.json() == first.json()
                assert list(other.headers) == list(first.headers)
                assert other.headers["x-request-id"] != first.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        (CLASSIFY, b"x" * 7, "application/octet-stream", 422),
        (f"{CLASSIFY}?top_k=1000000", b"", "image/png", 422),
        (f"{CLASSIFY}?top_k=two", b"", "image/png", 422),
        (CLASSIFY, b"no image", "image/png", 415),
        (CLASSIFY, b"", "image/png", 422),
        (CLASSIFY, b"{}", "application/json", 422),
        ("/v1/models/nobody/classify", b"", "image/png", 404),
        ("/v1/models/scale/classify", b"", "image/png", 422),
        ("/v2/models/scale/infer", b"{}", "application/json", 400),
        ("/v2/models/scale/infer", b"[1", "application/json", 400),
        ("/v2/models/nobody/infer", b"{}", "application/json", 404),
        ("/v1/nothing", b"", "image/png", 404),
    ],
)
def test_what_is_refused_is_refused_in_the_same_words(
    running: RunningService, path: str, body: bytes, kind: str, status: int
) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": kind}
    with httpx.Client(base_url=running.url, headers=headers) as client:
        first, *others = (client.post(path, content=body) for _ in range(3))
    assert first.status_code == status, first.text
    for other in others:
        assert (other.status_code, other.json()) == (first.status_code, first.json())
        assert sorted(other.headers) == sorted(first.headers)


def test_pipelined_requests_are_answered_in_their_order(running: RunningService) -> None:
    peer = ApiConnection(running.url)
    peer.send(infer(row(0)))
    assert value_in(read_answers(peer, 1)[0]) == 0

    peer.send(b"".join(infer(row(value)) for value in range(1, 60)))

    assert [value_in(answer) for answer in read_answers(peer, 59)] == [2.0 * value for value in range(1, 60)]
    peer.close()


def test_every_caller_gets_the_answer_to_his_own_rows(running: RunningService) -> None:
    def call(number: int) -> list[float]:
        peer, found = ApiConnection(running.url), []
        for step in range(40):
            x = np.full((1 + (number + step) % 5, 3), number * 100 + step, np.float32)
            peer.send(infer(x))
            (answer,) = read_answers(peer, 1)
            found.append(value_in(answer))
            assert len(np.frombuffer(answer[-x.nbytes :], np.float32)) == x.size
            assert (np.frombuffer(answer[-x.nbytes :], np.float32) == 2 * x.flat[0]).all()
        peer.close()
        return found

    with ThreadPoolExecutor(16) as threads:
        for number, found in enumerate(threads.map(call, range(16))):
            assert found == [2.0 * (number * 100 + step) for step in range(40)]


def test_a_body_may_come_in_parts(running: RunningService) -> None:
    request = infer(np.full((500, 3), 7, np.float32))
    peer = ApiConnection(running.url)
    for size in (len(request), 1, 100, 300, 2000):
        peer.send(request[:size])
        time.sleep(0.02)
        peer.send(request[size:])
        assert value_in(read_answers(peer, 1)[0]) == 14
    peer.close()


def test_a_body_that_does_not_come_is_given_up(running: RunningService) -> None:
    request = infer(row(1))
    peer = ApiConnection(running.url)
    peer.send(request)
    read_answers(peer, 1)

    peer.send(request[:-1])

    answer = peer.read()
    assert statuses(answer) == [408]
    assert b"connection: close" in answer


def test_a_body_over_the_limit_is_refused_by_its_length(running: RunningService) -> None:
    request = infer(row(1))
    peer = ApiConnection(running.url)
    peer.send(request)
    read_answers(peer, 1)

    peer.send(re.sub(rb"Content-Length: \d+\r\n\r\n", b"Content-Length: 2000000\r\n\r\n", request))

    assert statuses(peer.read()) == [400]  # as /v2 says it: 413 is unknown there


def test_a_key_is_checked_each_time(running: RunningService, keys_file: Path) -> None:
    peer = ApiConnection(running.url)
    peer.send(infer(row(1)))
    assert statuses(read_answers(peer, 1)[0]) == [200]
    peer.send(infer(row(1), key="hp_other"))
    assert statuses(read_answers(peer, 1)[0]) == [401]
    known = keys_file.read_text()
    try:
        keys_file.write_text(f"tester:{digest_of('hp_other')}\n")

        def is_refused() -> bool:
            peer.send(infer(row(1)))
            return statuses(read_answers(peer, 1)[0])[0] in (401, 429)

        until(is_refused)
        peer.send(infer(row(1), key="hp_other"))
        assert statuses(read_answers(peer, 1)[0]) == [200]
    finally:
        keys_file.write_text(known)
        until(lambda: not is_refused())
    peer.close()


def test_an_id_that_the_caller_gives_is_kept(running: RunningService) -> None:
    peer = ApiConnection(running.url)
    for name in ("one", "two", "three"):
        peer.send(infer(row(1), X_Request_Id=name))
        assert b"x-request-id: %b\r\n" % name.encode() in read_answers(peer, 1)[0]
    peer.close()


def test_a_request_that_fails_says_why_and_the_next_is_answered(running: RunningService) -> None:
    good, peer = infer(row(3)), ApiConnection(running.url)
    for bad, why in (
        (good.replace(b"FP32", b"FP64"), b"the model takes FP32"),
        (good.replace(b"[1, 3]", b"[3, 1]"), b"The shape of"),
        (good.replace(b'"x"', b'"z"'), b"are missing"),
    ):
        for request in (good, bad, bad, good):
            peer.send(request)
        answers = read_answers(peer, 4)
        assert [statuses(answer)[0] for answer in answers] == [200, 400, 400, 200]
        assert why in answers[1]
        assert answers[1].partition(b"\r\n\r\n")[2] == answers[2].partition(b"\r\n\r\n")[2]
    peer.close()


def test_a_connection_that_is_idle_is_closed(running: RunningService) -> None:
    peer, started_at = ApiConnection(running.url), 0.0
    for _ in range(3):
        peer.send(infer(row(1)))
        read_answers(peer, 1)
        started_at = time.monotonic()
        time.sleep(0.2)

    assert peer.read() == b""
    assert KEEP_ALIVE_SECONDS - 0.1 < time.monotonic() - started_at < 3 * KEEP_ALIVE_SECONDS


def test_who_leaves_frees_his_place(running: RunningService) -> None:
    peers = [ApiConnection(running.url) for _ in range(5)]
    for peer in peers:
        peer.send(infer(row(1), "patient"))
        read_answers(peer, 1)
    for peer in peers:
        peer.send(infer(row(1), "patient"))
    time.sleep(WINDOW_SECONDS / 6)
    for peer in peers:
        peer.close()

    def cancelled() -> bool:
        text = httpx.get(f"{running.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
        found = re.search(r'hotplate_failures_total\{.*model="patient",reason="cancelled".*\} (\S+)', text)
        return found is not None and float(found[1]) >= 5

    until(cancelled)
    text = httpx.get(f"{running.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    found = re.search(r'hotplate_requests_total\{model="patient",route="[^"]*",status="499"\} (\S+)', text)
    assert found is not None
    assert float(found[1]) >= 5


def test_who_does_not_read_is_not_read_either(running: RunningService) -> None:
    """Answers nobody takes must not pile up: requests wait instead, in the caller's own buffers."""
    request = infer(np.zeros((20_000, 3), np.float32))
    peer = ApiConnection(running.url)
    peer.send(infer(np.zeros((20_000, 3), np.float32)))
    read_answers(peer, 1)
    before = resident_bytes(running)
    peer.socket.settimeout(2)
    with pytest.raises(TimeoutError):
        peer.socket.sendall(400 * request)
    assert resident_bytes(running) - before < 40 * 2**20
    peer.close()


def resident_bytes(running: RunningService) -> float:
    text = httpx.get(f"{running.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return float(re.findall(r'hotplate_process_resident_bytes\{process="api"\} (\S+)', text)[0])
