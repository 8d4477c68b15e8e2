"""The real service, called over gRPC by Triton's client and by a bare channel."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from models.manifest import NUMPY_DTYPES
from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.messages import CONTENTS
from service.protocols.open_inference.tensors import DATATYPES
from tests.fake_models.classification import LABELS, SHAPE, LinearClassifier
from tests.servers import RunningService, until
from tests.service.http.calls import TOLERANCE, encoded

NAME = "/inference.GRPCInferenceService"


def array_of(datatype: str, num_rows: int = 3) -> NDArray[Any]:
    """Rows whose elements reach the ends of the datatype, as Triton's client takes them."""
    if datatype == "BYTES":
        rows = [[b"", b"a\0b"], [b"a" * 300, "grün".encode()], [b"x", b"y"]]
        return np.array(rows[:num_rows], np.object_)
    if datatype == "BOOL":
        return np.array([[True, False], [False, False], [True, True]])[:num_rows]
    dtype = np.dtype(ml_dtypes.bfloat16) if datatype == "BF16" else NUMPY_DTYPES[datatype]
    if datatype in ("BF16", "FP16", "FP32", "FP64"):
        return np.array([[0.5, -0.0], [np.inf, 1e-3], [-2, 1e4]], dtype)[:num_rows]
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [1, 2], [0, 5]], dtype)[:num_rows]


def given(array: NDArray[Any], datatype: str = "FP32", name: str = "x") -> triton.InferInput:
    """An input of Triton's client."""
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """Status and message of what Triton's client raises."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


# --- tensors ---


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("num_rows", [1, 3])
def test_every_datatype_comes_back_as_it_was(
    inference: triton.InferenceServerClient, datatype: str, num_rows: int
) -> None:
    sent = array_of(datatype, num_rows)

    result = inference.infer(f"echo-{datatype.lower()}", [given(sent, datatype)], request_id="7")

    received = result.as_numpy("y")
    assert result.get_output("y").datatype == datatype
    assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
    assert received.tolist() == sent.tolist() if datatype == "BYTES" else received.tobytes() == sent.tobytes()
    assert result.get_response().id == "7"
    assert result.get_response().model_version == "1"


@pytest.mark.parametrize("datatype", sorted(CONTENTS))
def test_typed_contents_are_the_same_as_raw(channel: Any, datatype: str) -> None:
    sent = array_of(datatype)
    typed, raw = [pb.ModelInferRequest(model_name=f"echo-{datatype.lower()}") for _ in range(2)]
    for request in (typed, raw):
        request.inputs.add(name="x", datatype=datatype, shape=sent.shape)
    getattr(typed.inputs[0].contents, CONTENTS[datatype]).extend(sent.reshape(-1).tolist())
    raw.raw_input_contents.append(given(sent, datatype)._get_content())

    answers = [infer(channel, request) for request in (typed, raw)]

    assert answers[0] == answers[1]
    assert answers[0].raw_output_contents == raw.raw_input_contents


def infer(channel: Any, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    call = channel.unary_unary(f"{NAME}/ModelInfer")
    answer: pb.ModelInferResponse = pb.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=30))
    return answer


# --- inference ---


def test_a_classifier_returns_chosen_outputs_and_its_best_classes(
    inference: triton.InferenceServerClient, network: LinearClassifier
) -> None:
    images = network.images(11)
    expected = network.outputs(images)
    wanted = [triton.InferRequestedOutput("embedding"), triton.InferRequestedOutput("probabilities", class_count=2)]

    result = inference.infer("tiny", [given(images, "UINT8", "image")], model_version="1", outputs=wanted)

    np.testing.assert_allclose(result.as_numpy("embedding"), expected["embedding"], atol=TOLERANCE)
    assert result.as_numpy("activation_map") is None
    for told, row in zip(result.as_numpy("probabilities"), expected["probabilities"], strict=True):
        best = np.argsort(-row)[:2]
        assert [text.decode().split(":")[1:] for text in told] == [[str(at), LABELS[at]] for at in best]


def test_encoded_images_are_decoded_as_by_the_task(
    inference: triton.InferenceServerClient, network: LinearClassifier
) -> None:
    images = network.images(3)
    files = np.array([encoded(image) for image in images], np.object_)

    result = inference.infer("tiny", [given(files, "BYTES", "image")])

    expected = network.outputs(images)["probabilities"]
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=TOLERANCE)


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_requests_may_be_compressed(inference: triton.InferenceServerClient, algorithm: str | None) -> None:
    sent = np.zeros((2, 50_000), np.float32)

    result = inference.infer("echo-fp32", [given(sent)], compression_algorithm=algorithm)

    assert result.as_numpy("y").tobytes() == sent.tobytes()


def test_many_are_answered_at_once(inference: triton.InferenceServerClient, network: LinearClassifier) -> None:
    images = network.images(20)
    expected = network.outputs(images)["probabilities"]
    ended: queue.Queue[tuple[int, Any, Any]] = queue.Queue()

    def keep(at: int) -> Callable[..., None]:
        return lambda result, error: ended.put((at, result, error))

    for at in range(20):
        inference.async_infer("tiny", [given(images[at : at + 1], "UINT8", "image")], keep(at))

    for _ in range(20):
        at, result, error = ended.get(timeout=30)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("probabilities")[0], expected[at], atol=TOLERANCE)


def test_a_stream_answers_in_order_with_errors_inside(inference: triton.InferenceServerClient) -> None:
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    inference.start_stream(lambda result, error: ended.put((result, error)))
    sent = [np.full((1, 2), at, np.float32) for at in range(6)]

    for at, array in enumerate(sent):
        inference.async_stream_infer("echo-fp32" if at != 3 else "nobody", [given(array)], request_id=str(at))
    answers = [ended.get(timeout=30) for _ in sent]
    inference.stop_stream()

    for at, (result, error) in enumerate(answers):
        if at == 3:
            assert "There is no model 'nobody'" in error.message()
        else:
            assert error is None
            assert result.get_response().id == str(at)
            assert result.as_numpy("y").tolist() == sent[at].tolist()


def test_what_does_not_fit_is_refused(inference: triton.InferenceServerClient) -> None:
    x = np.zeros((1, 2), np.float32)
    unknown, wrong_name, wrong_type, missing_version = (
        refused(lambda: inference.infer("nobody", [given(x)])),
        refused(lambda: inference.infer("echo-fp32", [given(x, name="z")])),
        refused(lambda: inference.infer("echo-fp64", [given(x)])),
        refused(lambda: inference.infer("echo-fp32", [given(x)], model_version="9")),
    )

    assert (unknown[0], "'nobody'" in unknown[1]) == ("StatusCode.NOT_FOUND", True)
    assert (wrong_name[0], "'z'" in wrong_name[1]) == ("StatusCode.INVALID_ARGUMENT", True)
    assert (wrong_type[0], "takes FP64" in wrong_type[1]) == ("StatusCode.INVALID_ARGUMENT", True)
    assert (missing_version[0], "'9'" in missing_version[1]) == ("StatusCode.NOT_FOUND", True)


def test_a_message_that_is_too_large_is_refused_and_the_connection_goes_on(
    inference: triton.InferenceServerClient,
) -> None:
    status, _ = refused(lambda: inference.infer("echo-fp32", [given(np.zeros((1, 1_100_000), np.float32))]))

    assert status == "StatusCode.RESOURCE_EXHAUSTED"
    assert inference.is_server_ready()


# --- waiting requests ---


def metric(service: RunningService, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in httpx.get(f"{service.url}/metrics").text.splitlines()
        if line.startswith(f"hotplate_{name}{{") and all(label in line for label in wanted)
    )


def _cancelled(service: RunningService) -> float:
    return metric(service, "failures_total", model="patient", reason="cancelled")


def test_a_cancelled_call_leaves_the_queue(echo_service: RunningService, channel: Any) -> None:
    before = _cancelled(echo_service)
    request = pb.ModelInferRequest(model_name="patient", raw_input_contents=[bytes(12)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])

    call = channel.unary_unary(f"{NAME}/ModelInfer").future(request.SerializeToString())
    until(lambda: metric(echo_service, "queue_depth", model="patient") == 1)
    call.cancel()

    until(lambda: _cancelled(echo_service) == before + 1)
    until(lambda: metric(echo_service, "queue_depth", model="patient") == 0)
    until(lambda: metric(echo_service, "requests_total", route="ModelInfer", model="patient", status="CANCELLED"))


def test_a_call_has_its_deadline(echo_service: RunningService, inference: triton.InferenceServerClient) -> None:
    x = given(np.ones((1, 3), np.float32))

    by_client, _ = refused(lambda: inference.infer("patient", [x], client_timeout=1e-5))
    by_parameter, _ = refused(lambda: inference.infer("patient", [x], timeout=1))
    in_time = inference.infer("echo-fp32", [x], timeout=20_000_000, priority=1)

    assert by_client == "StatusCode.DEADLINE_EXCEEDED"
    assert by_parameter in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
    assert in_time.as_numpy("y").tolist() == [[1, 1, 1]]
    until(lambda: metric(echo_service, "queue_depth", model="patient") == 0)


@pytest.mark.parametrize("options", [{"client_timeout": 1.0}, {"timeout": 1_000_000}])
def test_a_window_that_is_longer_than_a_deadline_ends_in_time(
    inference: triton.InferenceServerClient, options: dict[str, Any]
) -> None:
    answer = inference.infer("patient", [given(np.ones((1, 3), np.float32))], **options)

    assert answer.as_numpy("y").tolist() == [[2, 2, 2]]


# --- health, metadata, configuration, statistics, repository ---


def test_health_is_reported(inference: triton.InferenceServerClient, channel: Any) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")

    assert inference.is_server_live()
    assert inference.is_server_ready()
    assert inference.is_model_ready("tiny")
    assert inference.is_model_ready("tiny", "1")
    assert not inference.is_model_ready("tiny", "2")
    assert not inference.is_model_ready("nobody")
    answer = HealthCheckResponse.FromString(check(HealthCheckRequest().SerializeToString()))
    assert answer.status == HealthCheckResponse.SERVING


def test_metadata_is_the_same_as_over_http(
    echo_service: RunningService, inference: triton.InferenceServerClient
) -> None:
    server, model = [inference.get_server_metadata(as_json=True), inference.get_model_metadata("tiny", as_json=True)]

    assert server == httpx.get(f"{echo_service.url}/v2").json()
    for tensor in [*model["inputs"], *model["outputs"]]:
        tensor["shape"] = [int(size) for size in tensor["shape"]]
    assert model == httpx.get(f"{echo_service.url}/v2/models/tiny").json()
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]


def test_every_model_has_a_configuration(inference: triton.InferenceServerClient) -> None:
    names = sorted(entry.name for entry in inference.get_model_repository_index().models if entry.state == "READY")

    configs = {name: inference.get_model_config(name).config for name in names}

    assert len(configs) == 2 * len(DATATYPES) + 4
    assert all(config.name == name for name, config in configs.items())
    assert configs["tiny"].max_batch_size == 8
    assert list(configs["tiny"].input[0].dims) == list(SHAPE)
    assert configs["patient"].dynamic_batching.max_queue_delay_microseconds == 25_000_000
    assert configs["echo-bytes"].input[0].data_type == pb.DataType.TYPE_STRING


def test_statistics_count_requests_and_rows(inference: triton.InferenceServerClient) -> None:
    def counts() -> tuple[int, int]:
        (statistics,) = inference.get_inference_statistics("echo-int16", "1").model_stats
        return statistics.inference_count, statistics.inference_stats.success.count

    rows, requests = counts()
    for num_rows in (1, 3):
        inference.infer("echo-int16", [given(array_of("INT16", num_rows), "INT16")])

    assert counts() == (rows + 4, requests + 2)
    assert len(inference.get_inference_statistics().model_stats) >= 2 * len(DATATYPES) + 2


def test_a_model_is_loaded_used_and_unloaded(
    echo_service: RunningService, inference: triton.InferenceServerClient
) -> None:
    def state() -> str:
        (entry,) = [each for each in inference.get_model_repository_index().models if each.name == "spare"]
        return str(entry.state)

    assert state() == "UNAVAILABLE"
    inference.load_model("spare", config='{"max_batch_size": 2}')
    until(lambda: inference.is_model_ready("spare"))
    assert state() == "READY"
    assert inference.get_model_config("spare").config.max_batch_size == 2
    result = inference.infer("spare", [given(np.ones((1, 3), np.float32))])
    assert result.as_numpy("y").tolist() == [[3, 3, 3]]
    inference.unload_model("spare")
    assert state() == "UNAVAILABLE"


def test_what_a_load_cannot_do_is_refused(inference: triton.InferenceServerClient) -> None:
    unknown, _ = refused(lambda: inference.load_model("nobody"))
    files, message = refused(lambda: inference.load_model("spare", config="{}", files={"file:1/model.onnx": b"x"}))
    odd, _ = refused(lambda: inference.load_model("spare", config='{"no_such": 1}'))

    assert unknown == "StatusCode.NOT_FOUND"
    assert (files, "is a file" in message) == ("StatusCode.UNIMPLEMENTED", True)
    assert odd == "StatusCode.INVALID_ARGUMENT"


def test_shared_memory_is_declined(inference: triton.InferenceServerClient) -> None:
    status, message = refused(lambda: inference.register_system_shared_memory("region", "/key", 16))

    assert status == "StatusCode.UNIMPLEMENTED"
    assert "shared memory" in message


def test_reflection_describes_the_services(channel: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)

    names = set(database.get_services())
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")

    assert names == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    }
    (service,) = file.service
    assert "ModelStreamInfer" in [method.name for method in service.method]


def test_a_call_carries_its_id(channel: Any) -> None:
    live = channel.unary_unary(f"{NAME}/ServerLive")

    _, call = live.with_call(b"", metadata=(("x-request-id", "mine"),))

    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    assert call.code() is StatusCode.OK


def test_all_processes_answer_on_the_one_port(echo_service: RunningService) -> None:
    def prefix_of_one_more() -> str:
        # One connection each: channels to the same address would share theirs.
        with grpc.insecure_channel(echo_service.grpc_address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            _, call = channel.unary_unary(f"{NAME}/ServerLive").with_call(b"", timeout=20, wait_for_ready=True)
            return str(dict(call.trailing_metadata())["x-request-id"]).partition("-")[0]

    seen: set[str] = set()

    until(lambda: seen.add(prefix_of_one_more()) or len(seen) == 2)  # type: ignore[func-returns-value]
