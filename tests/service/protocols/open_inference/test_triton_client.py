"""Triton's own HTTP client against the running service: all that it can ask, in JSON and raw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.fake_models.classification import LABELS, LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import TOLERANCE, encoded


def client_of(service: RunningService) -> triton.InferenceServerClient:
    """Triton's client on one connection."""
    return triton.InferenceServerClient(service.url.removeprefix("http://"))


@pytest.fixture
def server(service: RunningService) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of the service that the tests share."""
    with client_of(service) as client:
        yield client


def image_input(images: Any, *, is_binary: bool = True) -> triton.InferInput:
    """The input `image`."""
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=is_binary)
    return tensor


def test_it_reads_what_the_service_says_of_itself(server: triton.InferenceServerClient) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready("tiny")
    assert server.is_model_ready("photo", "2")
    assert not server.is_model_ready("nobody")
    assert "statistics" in server.get_server_metadata()["extensions"]
    assert server.get_model_metadata("photo", "2")["inputs"][0]["shape"] == [-1, 12, 10, 3]
    assert server.get_model_config("tiny")["max_batch_size"] == 8
    assert {entry["name"] for entry in server.get_model_repository_index()} == {"tiny", "tiny-dark", "photo"}
    assert server.get_inference_statistics("tiny")["model_stats"][0]["name"] == "tiny"
    assert len(server.get_inference_statistics()["model_stats"]) == 3


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("is_answer_binary", [True, False, None])
def test_it_infers_in_json_and_raw(
    server: triton.InferenceServerClient, network: LinearClassifier, is_binary: bool, is_answer_binary: bool | None
) -> None:
    images = network.images(3)
    names = ("probabilities", "embedding", "activation_map")
    wanted = [triton.InferRequestedOutput(name, binary_data=is_answer_binary) for name in names]

    result = server.infer(
        "tiny",
        [image_input(images, is_binary=is_binary)],
        outputs=None if is_answer_binary is None else wanted,
        request_id="17",
        priority=2,
        timeout=10_000_000,
    )

    assert result.get_response()["id"] == "17"
    for name, expected in network.outputs(images).items():
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=TOLERANCE)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_it_codes_bodies_in_both_directions(
    server: triton.InferenceServerClient, network: LinearClassifier, coding: str, is_binary: bool
) -> None:
    images = network.images(150)

    result = server.infer(
        "tiny",
        [image_input(images, is_binary=is_binary)],
        outputs=[triton.InferRequestedOutput("probabilities", binary_data=is_binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )

    np.testing.assert_allclose(
        result.as_numpy("probabilities"), network.outputs(images)["probabilities"], atol=TOLERANCE
    )


def test_it_gets_classes_of_encoded_images(server: triton.InferenceServerClient, network: LinearClassifier) -> None:
    images = network.images(2)
    pictures = triton.InferInput("image", [2, 1], "BYTES")
    pictures.set_data_from_numpy(np.array([[encoded(image)] for image in images], object))

    result = server.infer(
        "tiny", [pictures], outputs=[triton.InferRequestedOutput("probabilities", class_count=len(LABELS))]
    )

    told = result.as_numpy("probabilities")
    assert told.shape == (2, len(LABELS))
    assert [text.decode().split(":")[2] for text in told[:, 0]] == [
        LABELS[index] for index in network.outputs(images)["probabilities"].argmax(axis=1)
    ]


def test_it_infers_side_by_side(service: RunningService, network: LinearClassifier) -> None:
    images = network.images(16)
    with triton.InferenceServerClient(service.url.removeprefix("http://"), concurrency=8) as client:
        waiting = [client.async_infer("tiny", [image_input(images[i : i + 1])]) for i in range(16)]
        results = [one.get_result().as_numpy("probabilities")[0] for one in waiting]

    np.testing.assert_allclose(results, network.outputs(images)["probabilities"], atol=TOLERANCE)


def test_it_raises_errors_with_their_status(server: triton.InferenceServerClient, network: LinearClassifier) -> None:
    with pytest.raises(InferenceServerException, match="'nobody'") as unknown:
        server.infer("nobody", [image_input(network.images(1))])
    with pytest.raises(InferenceServerException, match="takes") as misfit:
        server.infer("tiny", [image_input(network.images(1)[0])])
    with pytest.raises(InferenceServerException, match="shared memory") as declined:
        server.register_system_shared_memory("region", "/key", 64)

    assert [caught.value.status() for caught in (unknown, misfit, declined)] == ["404", "400", "501"]


def test_it_loads_and_unloads(echo_service: RunningService, echo_repository: Path, network: LinearClassifier) -> None:
    name, images = "spare-classifier", network.images(2)
    expected = network.outputs(images)["probabilities"]

    with client_of(echo_service) as client:
        states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
        assert states[name] == "UNAVAILABLE"
        assert not client.is_model_ready(name)

        client.load_model(name)
        found = client.infer(name, [image_input(images)]).as_numpy("probabilities")
        network.write(echo_repository, name, "2")
        client.load_model(name)
        newer = client.infer(name, [image_input(images)])
        client.unload_model(name)

        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        np.testing.assert_allclose(newer.as_numpy("probabilities"), expected, atol=TOLERANCE)
        assert newer.get_response()["model_version"] == "2"
        assert not client.is_model_ready(name)
        with pytest.raises(InferenceServerException) as refused:
            client.infer(name, [image_input(images)])
        assert refused.value.status() == "503"
        with pytest.raises(InferenceServerException, match="'nobody'"):
            client.load_model("nobody")
        with pytest.raises(InferenceServerException, match=r"file:1/model\.onnx"):
            client.load_model(name, config="{}", files={"file:1/model.onnx": b"x"})
