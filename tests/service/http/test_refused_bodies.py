"""What a refused request brought is gone with it: no cycle of references keeps it until it is collected as garbage."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tests.servers import RunningService

MIB = 2**20
BODY_BYTES = 16 * MIB
NUM_REQUESTS = 12
JSON = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}'
BINARY = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(JSON))}


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[RunningService]:
    """One API process, and the models that tests use."""
    with RunningService(repository, "--instances", "1", "--threads", "1") as service:
        yield service.wait_until_ready()


def resident_bytes(service: RunningService) -> int:
    (api,) = service.children("service.processes.api_process")
    return int(Path(f"/proc/{api}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/v2/models/tiny/infer", BINARY, JSON + bytes(BODY_BYTES)),
        ("/v1/models/tiny/classify", {"content-type": "application/octet-stream"}, bytes(BODY_BYTES)),
        ("/v1/models/tiny/classify", {"content-type": "image/png"}, b"\x89PNG\r\n\x1a\n" + bytes(BODY_BYTES)),
        ("/v1/models/tiny/classify", {"content-type": "application/json"}, b'{"a": "' + b"a" * BODY_BYTES + b'"}'),
        ("/v1/completions", {"content-type": "application/json"}, b'{"prompt": "' + b"a" * BODY_BYTES + b'"}'),
    ],
)
def test_bodies_that_are_refused_are_not_kept(
    running: RunningService, path: str, headers: dict[str, str], body: bytes
) -> None:
    with httpx.Client(base_url=running.url, timeout=30) as client:
        answers = [client.post(path, content=body, headers=headers).status_code for _ in range(2)]
        before = resident_bytes(running)
        answers += [client.post(path, content=body, headers=headers).status_code for _ in range(NUM_REQUESTS)]

    assert set(answers) <= {400, 404, 413, 415, 422}
    assert resident_bytes(running) - before < 4 * BODY_BYTES


def test_messages_that_are_refused_are_not_kept(running: RunningService) -> None:
    with triton.InferenceServerClient(running.grpc_address) as client:
        tensor = triton.InferInput("x", [1, BODY_BYTES // 4], "FP32")
        tensor._raw_content = struct.pack("<f", 1.0) * (BODY_BYTES // 4)

        def ask() -> None:
            with pytest.raises(InferenceServerException):
                client.infer("tiny", [tensor])

        for _ in range(NUM_REQUESTS):  # the library keeps buffers of its own
            ask()
        before = resident_bytes(running)
        for _ in range(NUM_REQUESTS):
            ask()

    assert resident_bytes(running) - before < 4 * BODY_BYTES
