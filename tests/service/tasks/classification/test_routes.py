"""`classify` and `embed` of the real service, against the network computed in NumPy."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import PHOTO_SHAPE
from tests.fake_models.classification import LABELS, LinearClassifier
from tests.service.http.calls import (
    CLASSIFY,
    EMBED,
    RAW,
    TOLERANCE,
    as_files,
    as_json,
    assert_classified,
    assert_problem,
    encoded,
)


@pytest.fixture(scope="module")
def colour() -> LinearClassifier:
    """The network that is served as `photo`."""
    return LinearClassifier(3, PHOTO_SHAPE)


def test_a_raw_tensor_gets_the_answer_of_the_graph(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(1)

    response = client.post(CLASSIFY, content=rows.tobytes(), headers=RAW)

    assert_classified(response, network, rows)
    assert (response.json()["model"], response.json()["version"]) == ("tiny", "1")


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_every_format_gets_the_answer_for_its_pixels(
    client: httpx.Client, colour: LinearClassifier, kind: str, options: dict[str, bool]
) -> None:
    body = encoded(colour.images(1)[0], kind, **options)
    decoded = np.asarray(Image.open(BytesIO(body)))[None]

    response = client.post("/v1/models/photo/classify", content=body, headers={"content-type": f"image/{kind.lower()}"})

    assert_classified(response, colour, decoded)


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "application/octet-stream", "", "IMAGE/PNG"]
)
def test_an_image_is_recognized_by_its_bytes_with_curls_media_types(
    client: httpx.Client, network: LinearClassifier, media_type: str
) -> None:
    rows = network.images(1)
    headers = {"content-type": media_type} if media_type else {}

    assert_classified(client.post(CLASSIFY, content=encoded(rows[0]), headers=headers), network, rows)


def test_several_files_of_a_form_are_answered_in_their_order(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(3)

    assert_classified(client.post(CLASSIFY, files=as_files(rows), data={"top_k": "4"}), network, rows)


def test_more_images_than_a_batch_holds_are_split_and_joined_again(
    client: httpx.Client, network: LinearClassifier
) -> None:
    rows = network.images(29)

    assert_classified(client.post(CLASSIFY, json=as_json(rows)), network, rows)


def test_json_holds_parameters(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(1)

    response = client.post(CLASSIFY, json=as_json(255 - rows, top_k=1, explain=True, invert=True))

    (result,) = response.json()["results"]
    (prediction,) = result["predictions"]
    best = network.outputs(rows)["probabilities"][0]
    assert prediction["index"] == best.argmax()
    assert abs(prediction["probability"] - best.max()) < TOLERANCE
    assert Image.open(BytesIO(b64decode(result["explanation"]))).format == "PNG"


@pytest.mark.parametrize("top_k", range(1, len(LABELS) + 1))
def test_top_k_labels_are_answered(client: httpx.Client, network: LinearClassifier, top_k: int) -> None:
    content = network.images(1).tobytes()

    response = client.post(f"{CLASSIFY}?top_k={top_k}", content=content, headers=RAW)

    assert len(response.json()["results"][0]["predictions"]) == top_k


def test_an_explanation_is_an_image_of_the_networks_proportions(
    client: httpx.Client, network: LinearClassifier
) -> None:
    rows = network.images(2)

    response = client.post(f"{CLASSIFY}?explain=true", json=as_json(rows))

    assert_classified(response, network, rows)
    for result in response.json()["results"]:
        image = Image.open(BytesIO(b64decode(result["explanation"])))
        image.load()
        assert image.width * 6 == image.height * 5
        assert max(image.size) >= 224


def test_a_raw_tensor_can_be_explained(client: httpx.Client, network: LinearClassifier) -> None:
    response = client.post(f"{CLASSIFY}?explain=true", content=network.images(1).tobytes(), headers=RAW)

    assert Image.open(BytesIO(b64decode(response.json()["results"][0]["explanation"]))).format == "PNG"


def test_the_input_of_the_network_can_be_echoed(
    client: httpx.Client, network: LinearClassifier, colour: LinearClassifier
) -> None:
    rows = network.images(2)
    body = as_json(255 - rows, echo_input=True, invert=True)
    photo = encoded(colour.images(1)[0])

    inverted = client.post(CLASSIFY, json=body).json()["results"]
    (coloured,) = client.post("/v1/models/photo/classify?echo_input=true", content=photo).json()["results"]
    (plain,) = client.post(CLASSIFY, content=encoded(rows[0])).json()["results"]

    for row, result in zip(rows, inverted, strict=True):
        assert np.array_equal(_pixels(b64decode(result["input"])), row[:, :, 0])
    assert np.array_equal(_pixels(b64decode(coloured["input"])), _pixels(photo))
    assert "input" not in plain


def _pixels(body: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(body)))


def test_invert_is_applied(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(1)
    body = encoded(rows[0])

    for model in ("tiny", "tiny-dark"):
        path = f"/v1/models/{model}/classify"
        assert_classified(client.post(f"{path}?invert=true", content=body), network, 255 - rows)
        assert_classified(client.post(f"{path}?invert=false", content=body), network, rows)


def test_auto_inverts_a_light_background_for_a_network_of_light_objects_only(
    client: httpx.Client, network: LinearClassifier
) -> None:
    rows = np.full((1, *network.shape), 250, np.uint8)
    rows[0, 2:4, 2:3] = 20

    assert_classified(client.post(CLASSIFY, content=encoded(rows[0])), network, rows)
    assert_classified(client.post("/v1/models/tiny-dark/classify", content=encoded(rows[0])), network, 255 - rows)


def test_a_large_image_is_decoded_and_fitted(client: httpx.Client, colour: LinearClassifier) -> None:
    flat = np.full((1200, 1000, 3), (10, 200, 90), np.uint8)

    response = client.post("/v1/models/photo/classify", content=encoded(flat))

    assert_classified(response, colour, np.broadcast_to(flat[:1, :1], (1, *PHOTO_SHAPE)).copy())


def test_a_version_can_be_named(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(1)

    assert_classified(client.post("/v1/models/tiny@1/classify", content=rows.tobytes(), headers=RAW), network, rows)


def test_embeddings_are_those_of_the_graph(client: httpx.Client, network: LinearClassifier) -> None:
    rows = network.images(11)
    expected = network.outputs(rows)["embedding"]

    several = client.post(EMBED, json=as_json(rows))
    raw = client.post(EMBED, content=rows[3].tobytes(), headers=RAW)
    inverted = client.post(f"{EMBED}?invert=true", content=encoded(255 - rows[5]))

    found = [result["embedding"] for result in several.json()["results"]]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    np.testing.assert_allclose(raw.json()["results"][0]["embedding"], expected[3], atol=TOLERANCE)
    np.testing.assert_allclose(inverted.json()["results"][0]["embedding"], expected[5], atol=TOLERANCE)


def test_the_answer_has_server_timing(client: httpx.Client, network: LinearClassifier) -> None:
    response = client.post(CLASSIFY, content=network.images(1).tobytes(), headers=RAW)

    parts = [part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")]
    assert parts == ["queue", "compute", "batch", "total"]


@pytest.mark.parametrize("given", ["a", "Trace-1.2:3_4", "x" * 128])
def test_a_well_formed_request_id_is_echoed(client: httpx.Client, given: str) -> None:
    assert client.get("/livez", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "<script>", "caf\u00e9"])
def test_an_ill_formed_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    headers = httpx.Headers([(b"x-request-id", given.encode())])

    answered = [client.get("/livez", headers=headers).headers["x-request-id"] for _ in range(2)]

    assert given not in answered
    assert len(set(answered)) == 2


@pytest.mark.parametrize("seconds", ["30", "1.5", "300", "2e1"])
def test_a_deadline_in_range_is_accepted(client: httpx.Client, network: LinearClassifier, seconds: str) -> None:
    headers = RAW | {"x-request-timeout": seconds}

    assert client.post(CLASSIFY, content=network.images(1).tobytes(), headers=headers).status_code == 200


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e999", "301", "soon", "", "1,5", "9" * 5000])
def test_a_deadline_out_of_range_is_refused(client: httpx.Client, network: LinearClassifier, seconds: str) -> None:
    headers = RAW | {"x-request-timeout": seconds}

    response = client.post(CLASSIFY, content=network.images(1).tobytes(), headers=headers)

    assert_problem(response, 422, "invalid_parameter", "X-Request-Timeout", seconds[:30], "up to 300")


def test_a_deadline_that_cannot_be_met_is_refused_or_missed(client: httpx.Client, network: LinearClassifier) -> None:
    headers = RAW | {"x-request-timeout": "1e-9"}

    response = client.post(CLASSIFY, content=network.images(1).tobytes(), headers=headers)

    assert response.status_code in (503, 504)
    assert_problem(response, response.status_code, response.json()["code"])
    assert response.json()["code"] in ("deadline_unreachable", "deadline_exceeded")
