"""The gRPC port from start to end: told, reserved, drained with HTTP's, or not there at all."""

from __future__ import annotations

import os
import queue
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton

from service.errors import StartupError
from service.processes.listening import listen, reserve
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.servers import RunningService, until
from tests.service.protocols.open_inference.grpc.test_clients import NAME, given, metric

ONE = ("--instances", "1", "--threads", "1")
ENGINE = "service.processes.engine_process"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, which waits 3 s for a fuller batch."""
    folder = tmp_path_factory.mktemp("patient")
    write_bare(folder, "patient", scale_bytes(2.0))
    (folder / "patient" / "config.toml").write_text("max_queue_delay_seconds = 3\nmax_batch_size = 4\n")
    return folder


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[RunningService]:
    """The service that these tests end, the last one for good."""
    with RunningService(repository, *ONE, "--drain-seconds", "4") as running:
        yield running.wait_until_ready()


def waiting_call(channel: Any, service: RunningService) -> Any:
    """A call that waits in the queue of `patient`."""
    request = pb.ModelInferRequest(model_name="patient", id="7", raw_input_contents=[np.ones(3, "<f4").tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    call = channel.unary_unary(f"{NAME}/ModelInfer").future(request.SerializeToString())
    until(lambda: metric(service, "queue_depth", model="patient") == 1, service.describe)
    return call


def assert_doubled(call: Any) -> None:
    answer = pb.ModelInferResponse.FromString(call.result(timeout=60))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [2, 2, 2]


def test_two_services_do_not_share_a_port_by_mistake(service: RunningService, repository: Path) -> None:
    with RunningService(repository, *ONE, "--grpc-port", service.grpc_address.rpartition(":")[2]) as second:
        assert second.wait() == 1

        assert f"Cannot listen on {service.grpc_address}" in second.describe()


def test_an_engine_that_dies_costs_no_call(service: RunningService) -> None:
    with grpc.insecure_channel(service.grpc_address) as channel:
        call = waiting_call(channel, service)
        for pid in service.children(ENGINE):
            os.kill(pid, signal.SIGKILL)
        assert_doubled(call)
    service.wait_until_ready()


def test_sigterm_drops_readiness_answers_all_requests_ends_streams_and_exits_with_zero(
    service: RunningService,
) -> None:
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with (
        grpc.insecure_channel(service.grpc_address) as channel,
        triton.InferenceServerClient(service.grpc_address) as client,
    ):
        client.start_stream(lambda result, error: ended.put((result, error)))
        assert client.is_server_ready()
        call = waiting_call(channel, service)
        service.terminate()
        until(lambda: not client.is_server_ready())
        assert client.is_server_live()
        late = client.infer("patient", [given(np.ones((3, 3), np.float32))])  # it fills the batch
        assert_doubled(call)
        result, error = ended.get(timeout=30)
        status = service.wait()

    assert status == 0, service.describe()
    assert late.as_numpy("y").tolist() == [[2, 2, 2]] * 3
    assert result is None
    assert "shutting down" in error.message()
    errors = [record for record in service.records if record["level"] in ("error", "critical")]
    assert not [record for record in errors if "engine" not in record["message"]]  # the one that was killed


def test_without_grpc_there_is_only_http(repository: Path) -> None:
    with RunningService(repository, *ONE, "--grpc-port", "off") as service:
        service.wait_until_ready()
        (api,) = service.children("service.processes.api_process")
        libraries = Path(f"/proc/{api}/maps").read_text()

        assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200
        assert not [record for record in service.records if "grpc" in record["message"]]
        assert "cygrpc" not in libraries


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


def test_an_ipv6_address_is_written_in_brackets() -> None:
    with reserve("::1", 0) as address:
        assert address.startswith("[::1]:")
