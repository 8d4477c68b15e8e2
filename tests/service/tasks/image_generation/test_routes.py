"""`generate` of images and `decode` of the real service, against the networks computed in NumPy."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.tasks.image_generation.rendering import labelled_grid
from tests.fake_models.image_generation import LABELS, TinyImageGenerator
from tests.servers import RunningService
from tests.service.http.calls import assert_problem
from tests.service.tasks.image_generation.generated import (
    GAN,
    LABELLED_VAE,
    VAE,
    expected,
    images_of,
    pixels_in,
    pixels_of,
)

GENERATE = f"{GAN}/generate"


@pytest.fixture(params=["tiny-gan", "tiny-vae", "tiny-labelled-vae"])
def named(
    request: pytest.FixtureRequest, gan: TinyImageGenerator, vae: TinyImageGenerator, labelled_vae: TinyImageGenerator
) -> Any:
    """Each model's path and network."""
    networks = {"tiny-gan": gan, "tiny-vae": vae, "tiny-labelled-vae": labelled_vae}
    return f"/v1/models/{request.param}", networks[request.param]


def test_a_seed_determines_its_label_and_its_image(
    image_generation_client: httpx.Client, named: tuple[str, TinyImageGenerator]
) -> None:
    path, image_generator = named
    seeds = list(range(100, 140))
    _, images, labels = expected(image_generator, seeds)

    response = image_generation_client.post(f"{path}/generate", json={"num_images": 40, "seed": 100})

    answer = response.json()
    assert (answer["model"], answer["version"], answer["seed"]) == (path.rpartition("/")[2], "1", 100)
    assert np.array_equal(pixels_in(response), images)
    assert [image["seed"] for image in answer["images"]] == seeds
    assert [image["index"] for image in answer["images"]] == labels
    assert [image["label"] for image in answer["images"]] == [LABELS[index] for index in labels]
    assert set(labels) == {0, 1, 2}
    assert answer["images"][0].keys() == {"seed", "label", "index", "image"}


def test_labels_temperature_and_truncation_are_applied(
    image_generation_client: httpx.Client, named: tuple[str, TinyImageGenerator]
) -> None:
    path, image_generator = named
    parameters = {"seed": 5, "temperature": 0.7, "truncation": 1.1, "latents": True}

    response = image_generation_client.post(
        f"{path}/generate", json=parameters | {"label": ["sneaker", 0, "ANKLE BOOT", "2"]}
    )

    latents, pixels, labels = expected(image_generator, [5, 6, 7, 8], [2, 0, 1, 2], 0.7, 1.1)
    images = images_of(response)
    assert np.array_equal(pixels_in(response), pixels)
    assert [image["index"] for image in images] == labels
    assert np.array_equal(np.array([image["latent"] for image in images], np.float32), latents)
    one = image_generation_client.post(f"{path}/generate", json=parameters | {"label": "Ankle boot", "num_images": 3})
    assert np.array_equal(pixels_in(one), expected(image_generator, [5, 6, 7], [1, 1, 1], 0.7, 1.1)[1])


def test_temperature_0_generates_one_image_for_each_label(
    image_generation_client: httpx.Client, gan: TinyImageGenerator
) -> None:
    response = image_generation_client.post(GENERATE, json={"num_images": 8, "temperature": 0, "label": "Bag"})

    images = pixels_in(response)
    assert np.array_equal(images, np.repeat(gan.decode(np.zeros((1, 4), np.float32), np.zeros(1, int)), 8, axis=0))


def test_without_a_seed_a_random_one_is_chosen_and_returned(
    image_generation_client: httpx.Client, gan: TinyImageGenerator
) -> None:
    first, second = (image_generation_client.post(GENERATE).json() for _ in range(2))

    assert first["seed"] != second["seed"]
    assert [image["seed"] for image in first["images"]] == [first["seed"]]
    assert 0 <= first["seed"] < 2**53 - 256
    again = image_generation_client.post(GENERATE, json={"seed": first["seed"]})
    assert again.json() == first
    assert np.array_equal(pixels_in(again), expected(gan, [first["seed"]])[1])


def test_seeds_wrap_around_after_the_last(image_generation_client: httpx.Client, gan: TinyImageGenerator) -> None:
    response = image_generation_client.post(GENERATE, json={"num_images": 3, "seed": 2**53 - 2})

    assert [image["seed"] for image in images_of(response)] == [2**53 - 2, 2**53 - 1, 0]
    assert np.array_equal(pixels_in(response)[2:], expected(gan, [0])[1])


def test_a_query_may_stand_in_for_an_empty_body(image_generation_client: httpx.Client) -> None:
    query = {"num_images": "2", "seed": "9", "label": "Ankle boot", "truncation": "1.5", "format": "json"}
    in_body = image_generation_client.post(
        GENERATE, json={"num_images": 2, "seed": 9, "label": "Ankle boot", "truncation": 1.5, "format": "json"}
    )

    in_query = image_generation_client.post(GENERATE, params=query)

    assert in_query.status_code == 200
    assert in_query.json() == in_body.json()
    both = image_generation_client.post(GENERATE, params={"seed": "9"}, json={"num_images": 2})
    assert_problem(both, 422, "invalid_parameter", "in the query ('seed') and in the body")
    typed = image_generation_client.post(GENERATE, params=query, headers={"content-type": "image/png"})
    assert typed.json() == in_body.json()


@pytest.mark.parametrize(
    ("method", "format_", "accept", "kind"),
    [
        ("POST", None, "*/*", "application/json"),
        ("POST", None, "image/png", "image/png"),
        ("POST", None, "image/png;q=0", "application/json"),
        ("POST", None, "image/png;q=0.1, application/zip;q=0.5", "application/zip"),
        ("POST", None, "application/json, image/png", "application/json"),
        ("POST", None, "text/html", "application/json"),
        ("POST", "png", "application/json", "image/png"),
        ("POST", "zip", "image/png", "application/zip"),
        ("POST", "json", "image/png", "application/json"),
        ("GET", None, "*/*", "image/png"),
        ("GET", None, "text/html,application/xhtml+xml,image/avif,*/*;q=0.8", "image/png"),
        ("GET", None, "image/png;q=0", "image/png"),
        ("GET", None, "application/json", "application/json"),
        ("GET", "zip", "*/*", "application/zip"),
        ("GET", "json", "image/png", "application/json"),
    ],
)
def test_format_decides_and_then_accept(
    image_generation_client: httpx.Client, method: str, format_: str | None, accept: str, kind: str
) -> None:
    query = {"num_images": "2"} | ({"format": format_} if format_ else {})

    response = image_generation_client.request(method, GENERATE, params=query, headers={"accept": accept})

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == kind


def test_a_grid_is_labelled_and_says_the_first_seed(
    image_generation_client: httpx.Client, gan: TinyImageGenerator
) -> None:
    _, images, labels = expected(gan, range(64, 84))

    grid = image_generation_client.get(GENERATE, params={"num_images": 20, "seed": 64})
    unseeded = image_generation_client.get(GENERATE)

    assert grid.headers["x-seed"] == "64"
    assert grid.content == labelled_grid(images, [LABELS[index] for index in labels])
    assert Image.open(BytesIO(grid.content)).format == "PNG"
    assert unseeded.content != image_generation_client.get(GENERATE).content
    assert (
        unseeded.content == image_generation_client.get(GENERATE, params={"seed": unseeded.headers["x-seed"]}).content
    )


def test_a_zip_names_each_image_by_seed_and_label(
    image_generation_client: httpx.Client, gan: TinyImageGenerator
) -> None:
    response = image_generation_client.post(GENERATE, json={"seed": 30, "label": [0, 1, 2], "format": "zip"})

    assert response.headers["x-seed"] == "30"
    with ZipFile(BytesIO(response.content)) as archive:
        assert archive.namelist() == ["30-Bag.png", "31-Ankle_boot.png", "32-Sneaker.png"]
        found = [pixels_of(archive.read(name)) for name in archive.namelist()]
    assert np.array_equal(found, expected(gan, [30, 31, 32], [0, 1, 2])[1])


def test_encoding_is_timed_apart(image_generation_client: httpx.Client) -> None:
    def num_encoded() -> float:
        lines = image_generation_client.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("hotplate_encode_seconds_count"))

    before = num_encoded()
    response = image_generation_client.post(GENERATE, json={"num_images": 40})

    assert {part.split(";")[0] for part in response.headers["server-timing"].split(", ")} == {
        "queue",
        "compute",
        "encode",
        "batch",
        "total",
    }
    assert num_encoded() > before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"num_images": 0}, "num_images is 0; it must be a whole number from 1 to 256."),
        ({"label": "Hat"}, "There is no label 'Hat'; known are Bag (0), Ankle boot (1), Sneaker (2)."),
        ({"label": ["Bag"], "num_images": 2}, "label is a list of 1; it must have 2, one for each image."),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 9007199254740991."),
        ({"prompt": "A bag"}, "Unknown parameter 'prompt'; known are num_images, seed"),
        ([], "must be an object"),
    ],
)
def test_an_invalid_parameter_is_quoted_with_what_is_valid(
    image_generation_client: httpx.Client, body: Any, message: str
) -> None:
    assert_problem(image_generation_client.post(GENERATE, json=body), 422, "invalid_parameter", message)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("num_images=" + "9" * 40, "num_images is '999"),
        ("label=hat", "There is no label 'hat'; known are Bag (0)"),
        ("seed=1&seed=2", "given twice: 'seed'"),
        ("seed=%ff", "percent-encoded UTF-8"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_invalid_query_is_quoted(
    image_generation_client: httpx.Client, method: str, query: str, message: str
) -> None:
    assert_problem(image_generation_client.request(method, f"{GENERATE}?{query}"), 422, "invalid_parameter", message)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "image/png"}, b"hello", 415),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--", 415),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "application/json"}, b'{"seed": NaN}', 400),
        ({"content-type": "application/json"}, b'{"seed": 1, "seed": 2}', 422),
        ({}, b"seed=1", 400),
        ({"content-encoding": "gzip"}, b"{}", 415),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    image_generation_client: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    response = image_generation_client.post(GENERATE, content=body, headers=headers)

    assert_problem(response, status, response.json()["code"])


def test_other_tasks_have_their_own_routes(image_generation_client: httpx.Client) -> None:
    text = image_generation_client.post("/v1/models/tiny-transformer/generate", json={"prompt": "a", "max_tokens": 1})
    assert text.status_code == 200
    assert text.json()["usage"]["completion_tokens"] == 1

    by_address = image_generation_client.get("/v1/models/tiny-transformer/generate?prompt=a")
    assert_problem(by_address, 422, "unsupported_task", "does text-generation; GET is for image-generation only")
    message = "does image-classification; this route needs text-generation or image-generation."
    assert_problem(image_generation_client.post("/v1/models/tiny/generate", json={}), 422, "unsupported_task", message)
    assert_problem(
        image_generation_client.post("/v1/models/tiny/decode", json={}), 422, "unsupported_task", "image-classification"
    )
    assert_problem(
        image_generation_client.get("/v1/models/nobody/generate"), 404, "unknown_model", "'nobody'", "tiny-gan"
    )
    assert_problem(image_generation_client.post(f"{GAN}/classify", content=b""), 422, "unsupported_task")
    assert image_generation_client.get(f"{GAN}/decode").status_code == 405
    refused = image_generation_client.delete(GENERATE)
    assert_problem(refused, 405, "method_not_allowed", "GET, HEAD, POST are.")
    assert refused.headers["allow"] == "GET, HEAD, POST"


def test_get_ignores_a_body(image_generation_client: httpx.Client) -> None:
    plain = image_generation_client.get(GENERATE, params={"seed": 4})

    assert (
        image_generation_client.request("GET", GENERATE, params={"seed": 4}, content=b'{"seed": 5').content
        == plain.content
    )


@pytest.mark.parametrize("reference", ["tiny-gan@1", "tiny-gan"])
def test_a_version_may_be_named(image_generation_client: httpx.Client, reference: str) -> None:
    assert image_generation_client.post(f"/v1/models/{reference}/generate?seed=1").json()["version"] == "1"


def test_latents_of_generate_are_decoded_to_the_same_images(
    image_generation_client: httpx.Client, named: tuple[str, TinyImageGenerator]
) -> None:
    path, image_generator = named
    generated = image_generation_client.post(f"{path}/generate", json={"num_images": 40, "seed": 3, "latents": True})
    images = images_of(generated)
    latents = [image["latent"] for image in images]
    label = {"label": [image["index"] for image in images]} if image_generator.is_conditional else {}

    decoded = image_generation_client.post(f"{path}/decode", json={"latents": latents, **label})

    answer = decoded.json()
    assert (answer["model"], answer["version"]) == (path.rpartition("/")[2], "1")
    assert [image["image"] for image in answer["images"]] == [image["image"] for image in images]
    named_labels = [image.get("label") for image in answer["images"]]
    assert named_labels == [image["label"] if image_generator.is_conditional else None for image in images]


def test_decoded_images_are_answered_as_a_grid_or_a_zip(
    image_generation_client: httpx.Client, gan: TinyImageGenerator, vae: TinyImageGenerator
) -> None:
    latents = [[0.5, -1.0, 2.0, 0.25], [0.0, 0.0, 0.0, -1000.0]]
    array = np.array(latents, np.float32)

    grid = image_generation_client.post(
        f"{GAN}/decode", json={"latents": latents, "label": "bag"}, headers={"accept": "image/png"}
    )
    archive = image_generation_client.post(
        f"{GAN}/decode", json={"latents": latents, "label": ["Bag", "Sneaker"], "format": "zip"}
    )
    plain = image_generation_client.post(f"{VAE}/decode", json={"latents": latents, "format": "zip"})

    assert grid.content == labelled_grid(gan.decode(array, np.zeros(2, int)), ["Bag", "Bag"])
    with ZipFile(BytesIO(archive.content)) as files:
        assert files.namelist() == ["0-Bag.png", "1-Sneaker.png"]
        assert np.array_equal(pixels_of(files.read("1-Sneaker.png")), gan.decode(array[1:], np.array([2]))[0])
    with ZipFile(BytesIO(plain.content)) as files:
        assert files.namelist() == ["0.png", "1.png"]
        assert np.array_equal(pixels_of(files.read("0.png")), vae.decode(array[:1])[0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "latents is missing; it must be a list of 1 to 256 latents."),
        ({"latents": []}, "latents is a list of 0"),
        ({"latents": [[0] * 4] * 257, "label": 0}, "latents is a list of 257"),
        ({"latents": [[0] * 3], "label": 0}, "latents[0] has 3 numbers; a latent of this model has 4."),
        ({"latents": [[0] * 4, [0] * 5], "label": 0}, "latents[1] has 5 numbers"),
        (
            {"latents": [[0, 0, 0, 1e300]], "label": 0},
            "latents[0][3] is 1e+300; it must be a number from -1000 to 1000.",
        ),
        ({"latents": [[0, 0, 0, None]], "label": 0}, "latents[0][3] is null"),
        ({"latents": [[0] * 4]}, "label is missing; the decoder of this model requires it."),
        ({"latents": [[0] * 4], "label": "Hat"}, "There is no label 'Hat'; known are Bag (0)"),
        ({"latents": [[0] * 4], "label": [0, 1]}, "label is a list of 2; it must have 1, one for each image."),
        ({"latents": [[0] * 4], "label": 0, "format": "webp"}, "format is 'webp'"),
    ],
)
def test_an_invalid_latent_is_named(image_generation_client: httpx.Client, body: dict[str, Any], message: str) -> None:
    assert_problem(image_generation_client.post(f"{GAN}/decode", json=body), 422, "invalid_parameter", message)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_latent_must_be_valid_json(image_generation_client: httpx.Client, number: str) -> None:
    body = f'{{"latents": [[0, 0, 0, {number}]], "label": 0}}'.encode()

    assert_problem(image_generation_client.post(f"{GAN}/decode", content=body), 400, "malformed_request")
    infinite = body.replace(number.encode(), b"1e999")
    assert_problem(
        image_generation_client.post(f"{GAN}/decode", content=infinite),
        422,
        "invalid_parameter",
        "latents[0][3] is inf",
    )


def test_a_label_is_for_decoders_that_take_one(
    image_generation_client: httpx.Client, labelled_vae: TinyImageGenerator
) -> None:
    body = {"latents": [[1, 2, 0, 0]], "label": "Bag"}

    message = "label is given, but the decoder of this model takes none."
    assert_problem(image_generation_client.post(f"{VAE}/decode", json=body), 422, "invalid_parameter", message)
    labelled = image_generation_client.post(f"{LABELLED_VAE}/decode", json=body)
    assert np.array_equal(
        pixels_in(labelled), labelled_vae.decode(np.array([[1, 2, 0, 0]], np.float32), np.zeros(1, int))
    )
    assert b64decode(images_of(labelled)[0]["image"]).startswith(b"\x89PNG")


def test_the_service_logged_no_error(image_generation_service: RunningService) -> None:
    assert [record for record in image_generation_service.records if record["level"] == "ERROR"] == []


def test_a_mix_of_labels_is_refused_by_a_model_that_cannot_blend(image_generation_client: httpx.Client) -> None:
    body = {"latents": [[0.0] * 4], "label_weights": [[1, 0, 0]]}

    response = image_generation_client.post(f"{GAN}/decode", json=body)

    assert response.status_code == 422
    assert "draws no mixes of labels" in response.json()["detail"]
