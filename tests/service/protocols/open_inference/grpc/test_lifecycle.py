"""The gRPC port from start to end: told, reserved, drained with HTTP's, or not there at all."""

from __future__ import annotations

import os
import queue
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton

from service.errors import StartupError
from service.processes.supervisor import listen, reserve
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.servers import RunningService, until
from tests.service.protocols.open_inference.grpc.test_clients import NAME, given, metric


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Starts services on a model that waits 3 s for a fuller batch; they end with the test."""
    started: list[RunningService] = []
    write_bare(tmp_path, "patient", scale_bytes(2.0))
    (tmp_path / "patient" / "config.toml").write_text("max_queue_delay_seconds = 3\nmax_batch_size = 4\n")

    def begin(*options: str) -> RunningService:
        started.append(RunningService(tmp_path, "--instances", "1", "--threads", "1", *options))
        return started[-1]

    yield begin
    for service in started:
        service.kill()


def test_sigterm_answers_all_that_was_asked_ends_streams_and_exits_with_zero(
    start: Callable[..., RunningService],
) -> None:
    service = start("--drain-seconds", "0.5").wait_until_ready()
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    request = pb.ModelInferRequest(model_name="patient", id="7", raw_input_contents=[np.ones(3, "<f4").tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])

    with (
        grpc.insecure_channel(service.grpc_address) as channel,
        triton.InferenceServerClient(service.grpc_address) as idle,
    ):
        idle.start_stream(lambda result, error: ended.put((result, error)))
        call = channel.unary_unary(f"{NAME}/ModelInfer").future(request.SerializeToString())
        until(lambda: metric(service, "queue_depth", model="patient") == 1, service.describe)
        service.terminate()
        answer = pb.ModelInferResponse.FromString(call.result(timeout=30))
        result, error = ended.get(timeout=30)
        status = service.wait()

    assert status == 0, service.describe()
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [2, 2, 2]
    assert result is None
    assert "shutting down" in error.message()
    assert not [record for record in service.records if record["level"] in ("error", "critical")]


def test_readiness_is_down_while_calls_are_still_taken(start: Callable[..., RunningService]) -> None:
    service = start("--drain-seconds", "60", "--grace-seconds", "60").wait_until_ready()

    with triton.InferenceServerClient(service.grpc_address) as client:
        assert client.is_server_ready()
        service.terminate()
        until(lambda: not client.is_server_ready())
        assert client.is_server_live()
        result = client.infer("patient", [given(np.ones((4, 3), np.float32))])  # a full batch does not wait
    service.terminate()  # at once

    assert result.as_numpy("y").tolist() == [[2, 2, 2]] * 4


def test_an_engine_that_dies_costs_no_call(start: Callable[..., RunningService]) -> None:
    service = start().wait_until_ready()

    with grpc.insecure_channel(service.grpc_address) as channel:
        request = pb.ModelInferRequest(model_name="patient", raw_input_contents=[np.ones(3, "<f4").tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        call = channel.unary_unary(f"{NAME}/ModelInfer").future(request.SerializeToString())
        until(lambda: metric(service, "queue_depth", model="patient") == 1, service.describe)
        for pid in service.children("service.processes.engine_process"):
            os.kill(pid, signal.SIGKILL)
        answer = pb.ModelInferResponse.FromString(call.result(timeout=60))

    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [2, 2, 2]


def test_without_grpc_there_is_only_http(start: Callable[..., RunningService]) -> None:
    service = start("--grpc-port", "off").wait_until_ready()

    (api,) = service.children("service.processes.api_process")
    libraries = Path(f"/proc/{api}/maps").read_text()

    assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200
    assert not [record for record in service.records if "grpc" in record["message"]]
    assert "cygrpc" not in libraries


def test_a_port_that_somebody_has_ends_the_start(start: Callable[..., RunningService]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = start("--grpc-port", str(port))
        status = service.wait()

    assert status == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in service.describe()


def test_two_services_do_not_share_a_port_by_mistake(start: Callable[..., RunningService]) -> None:
    first = start().wait_until_ready()

    second = start("--grpc-port", first.grpc_address.rpartition(":")[2])

    assert second.wait() == 1
    assert "Cannot listen on" in second.describe()


def test_a_reserved_port_is_for_servers_that_share_it() -> None:
    with reserve("127.0.0.1", 0) as address:
        host, _, port = address.rpartition(":")
        with pytest.raises(StartupError), listen(host, int(port)):
            pass
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind((host, int(port)))
            server.listen()
            with socket.create_connection((host, int(port)), timeout=5) as client:
                accepted, peer = server.accept()
                accepted.close()
                assert peer == client.getsockname()


def test_an_address_of_the_sixth_version_is_told_in_brackets() -> None:
    with reserve("::1", 0) as address:
        assert address.startswith("[::1]:")
