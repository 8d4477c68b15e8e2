"""`interpolate` and `arithmetic` of the real service, against the networks computed in NumPy."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.tasks.image_generation.process import walk
from service.tasks.image_generation.rendering import animation, labelled_grid
from tests.fake_models.image_generation import LABELS, TinyImageGenerator
from tests.models.samples import png_header
from tests.servers import RunningService
from tests.service.http.calls import assert_problem
from tests.service.tasks.image_generation.generated import (
    GAN,
    LABELLED_VAE,
    VAE,
    expected,
    images_of,
    pixels_in,
    to_base64,
)


@pytest.fixture(params=["tiny-gan", "tiny-vae", "tiny-labelled-vae"])
def named(
    request: pytest.FixtureRequest, gan: TinyImageGenerator, vae: TinyImageGenerator, labelled_vae: TinyImageGenerator
) -> Any:
    """Each model's path and network."""
    networks = {"tiny-gan": gan, "tiny-vae": vae, "tiny-labelled-vae": labelled_vae}
    return f"/v1/models/{request.param}", networks[request.param]


@pytest.mark.parametrize(("path", "steps"), [("spherical", 9), ("linear", 40)])
def test_a_walk_between_seeds_begins_and_ends_with_their_images(
    image_generation_client: httpx.Client, named: tuple[str, TinyImageGenerator], path: str, steps: int
) -> None:
    route, image_generator = named
    parameters = {"label": ["Sneaker", "Bag"], "temperature": 0.8, "truncation": 2.0}
    (start, end), ends, _ = expected(image_generator, [3, 500], [2, 0], 0.8, 2.0)

    response = image_generation_client.post(
        f"{route}/interpolate", json=parameters | {"seeds": [3, 500], "steps": steps, "path": path}
    )

    found = pixels_in(response)
    labels = np.where(np.arange(steps) < (steps + 1) // 2, 2, 0)
    points = walk(start, end, steps, "linear" if path == "linear" else "spherical")
    assert np.array_equal(found, image_generator.decode(points, labels))
    assert np.array_equal(found[[0, -1]], ends)
    first = image_generation_client.post(f"{route}/generate", json=parameters | {"seed": 3, "label": "Sneaker"})
    images = images_of(response)
    assert images[0]["image"] == images_of(first)[0]["image"]
    message = [image.get("label") for image in images]
    assert message == [LABELS[label] if image_generator.is_conditional else None for label in labels]


def test_without_a_label_each_seed_has_its_own(image_generation_client: httpx.Client, gan: TinyImageGenerator) -> None:
    seeds = [0, 1, 2, 3, 4, 5]
    own = expected(gan, seeds)[2]
    other = next(index for index in seeds if own[index] != own[0])

    images = images_of(image_generation_client.post(f"{GAN}/interpolate", json={"seeds": [0, other]}))

    assert len(images) == 9
    assert [image["label"] for image in images] == [LABELS[own[0]]] * 5 + [LABELS[own[other]]] * 4
    same = images_of(image_generation_client.post(f"{GAN}/interpolate", json={"seeds": [0, other], "label": "bag"}))
    assert {image["label"] for image in same} == {"Bag"}


def test_a_walk_between_images_passes_through_their_latents(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    images = vae.images(2, seed=11)

    response = image_generation_client.post(
        f"{VAE}/interpolate", json={"images": [to_base64(each) for each in images], "steps": 7}
    )

    start, end = vae.encode(images)["mean"]
    found = pixels_in(response).astype(int)
    assert np.abs(found - vae.decode(walk(start, end, 7, "spherical"))).max() <= 1
    assert np.abs(found[[0, -1]] - images).max() < 40


def test_images_of_a_labelled_model_require_labels(
    image_generation_client: httpx.Client, labelled_vae: TinyImageGenerator
) -> None:
    pixels, labels = labelled_vae.images(2, seed=11), np.array([1, 2])
    images = [to_base64(each) for each in pixels]

    refused = image_generation_client.post(f"{LABELLED_VAE}/interpolate", json={"images": images})
    response = image_generation_client.post(
        f"{LABELLED_VAE}/interpolate", json={"images": images, "label": [1, 2], "steps": 2}
    )

    assert_problem(refused, 422, "invalid_parameter", "label is missing; the decoder of this model requires it.")
    means = labelled_vae.encode(pixels, labels)["mean"]
    assert np.abs(pixels_in(response).astype(int) - labelled_vae.decode(means, labels)).max() <= 1


@pytest.mark.parametrize("by_accept", [True, False])
def test_a_walk_is_answered_as_a_grid_or_an_animation(
    image_generation_client: httpx.Client, gan: TinyImageGenerator, by_accept: bool
) -> None:
    latents, _, _ = expected(gan, [1, 2], [0, 0])
    images = gan.decode(walk(latents[0], latents[1], 5, "spherical"), np.zeros(5, int))
    body = {"seeds": [1, 2], "steps": 5, "label": "Bag"}

    def ask(kind: str) -> httpx.Response:
        if by_accept:
            return image_generation_client.post(
                f"{GAN}/interpolate", json=body, headers={"accept": f"image/{kind}, text/html"}
            )
        return image_generation_client.post(f"{GAN}/interpolate", json=body | {"format": kind})

    grid, webp, gif = ask("png"), ask("webp"), ask("gif")
    assert grid.content == labelled_grid(images, ["Bag"] * 5, 5)
    assert webp.content == animation(images, "webp")
    assert gif.content == animation(images, "gif")
    for response, kind in ((grid, "png"), (webp, "webp"), (gif, "gif")):
        assert response.headers["content-type"] == f"image/{kind}"
        assert "encode;dur=" in response.headers["server-timing"]
        assert Image.open(BytesIO(response.content)).format == kind.upper()
    assert getattr(Image.open(BytesIO(gif.content)), "n_frames", 1) == 8


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "seeds is missing; give either two seeds or two images."),
        ({"seeds": [1, 2], "images": ["", ""]}, "seeds and images are both given"),
        ({"seeds": [1]}, "seeds is a list of 1; it must be a list of 2 seeds."),
        ({"seeds": [1, -2]}, "seeds[1] is -2; it must be a whole number from 0 to 9007199254740991."),
        ({"seeds": [1.5, 2]}, "seeds[0] is 1.5"),
        ({"images": ["aGk="]}, "images is a list of 1; it must be a list of 2 images in base64."),
        ({"images": ["aGk=", 7]}, "images[1] is not valid base64."),
        ({"seeds": [1, 2], "steps": 1}, "steps is 1; it must be a whole number from 2 to 64."),
        ({"seeds": [1, 2], "steps": 65}, "steps is 65"),
        ({"seeds": [1, 2], "path": "great"}, "path is 'great'; it must be linear or spherical."),
        ({"seeds": [1, 2], "label": "Hat"}, "There is no label 'Hat'; known are Bag (0)"),
        ({"seeds": [1, 2], "label": ["Bag"]}, "label is a list of 1; it must have 2, one for each end."),
        ({"seeds": [1, 2], "label": [0, 1, 2]}, "label is a list of 3"),
        ({"seeds": [1, 2], "format": "zip"}, "format is 'zip'; it must be gif, json, png or webp."),
        ({"seeds": [1, 2], "invert": "maybe"}, "invert is 'maybe'"),
        (
            {"seeds": [1, 2], "num_images": 2},
            "Unknown parameter 'num_images'; did you mean images? Known are seeds, images, steps",
        ),
    ],
)
def test_an_invalid_walk_is_refused(image_generation_client: httpx.Client, body: dict[str, Any], message: str) -> None:
    assert_problem(image_generation_client.post(f"{VAE}/interpolate", json=body), 422, "invalid_parameter", message)


def test_an_invalid_image_is_named(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    good = to_base64(vae.images(1)[0])
    large = b64encode(png_header(20_000, 20_000)).decode()
    cases = [("aGk=", 415, "images[1]: "), (good[:60], 422, "images[1]: "), (large, 413, "images[1]: ")]
    for bad, status, message in cases:
        response = image_generation_client.post(f"{VAE}/interpolate", json={"images": [good, bad]})
        assert_problem(response, status, response.json()["code"], message)
    response = image_generation_client.post(f"{VAE}/arithmetic", json={"a": [good, "aGk="], "b": good, "c": good})
    assert_problem(response, 415, "unsupported_media_type", "a[1]: ")


def test_arithmetic_of_latents(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    terms = {"a": [1.0, 0.5, 0.0, -1.0], "b": [0.5, 0.5, 0.25, 0.0], "c": [0.0, 1.0, 1.0, 2.0]}
    latent = np.array([[0.5, 1.0, 0.75, 1.0]], np.float32)

    answer = image_generation_client.post(f"{VAE}/arithmetic", json=terms).json()
    grid = image_generation_client.post(f"{VAE}/arithmetic", json=terms, headers={"accept": "image/png"})

    assert (answer["model"], answer["version"], answer["latent"]) == ("tiny-vae", "1", latent[0].tolist())
    assert (
        answer["image"]
        == images_of(image_generation_client.post(f"{VAE}/decode", json={"latents": [answer["latent"]]}))[0]["image"]
    )
    assert grid.content == labelled_grid(vae.decode(latent), [""])


def test_arithmetic_of_images_and_their_means(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    pixels = vae.images(22, seed=13)
    images = [to_base64(each) for each in pixels]

    response = image_generation_client.post(
        f"{VAE}/arithmetic", json={"a": images[0], "b": images[1:20], "c": [0.5, 0.5, -0.5, 0.0], "invert": "false"}
    )

    means = vae.encode(pixels)["mean"]
    latent = means[0] - means[1:20].mean(axis=0) + np.array([0.5, 0.5, -0.5, 0.0])
    np.testing.assert_allclose(response.json()["latent"], latent, atol=1e-5)
    inverted = image_generation_client.post(
        f"{VAE}/arithmetic", json=dict.fromkeys("abc", images[0]) | {"invert": "true"}
    )
    np.testing.assert_allclose(inverted.json()["latent"], vae.encode(255 - pixels[:1])["mean"][0], atol=1e-5)


def test_arithmetic_with_a_label(image_generation_client: httpx.Client, labelled_vae: TinyImageGenerator) -> None:
    images = labelled_vae.images(3, seed=14)
    body: dict[str, Any] = {name: to_base64(each) for name, each in zip("abc", images, strict=True)}

    refused = image_generation_client.post(f"{LABELLED_VAE}/arithmetic", json=body)
    response = image_generation_client.post(f"{LABELLED_VAE}/arithmetic", json=body | {"label": "Sneaker"})

    assert_problem(refused, 422, "invalid_parameter", "label is missing")
    means = labelled_vae.encode(images, np.array([2, 2, 2]))["mean"]
    np.testing.assert_allclose(response.json()["latent"], means[0] - means[1] + means[2], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "a is missing; it must be an image in base64"),
        ({"b": []}, "b is a list of 0"),
        ({"c": [0.0] * 3}, "c has 3 numbers; a latent of this model has 4."),
        ({"c": [0.0, 0.0, 0.0, 1e300]}, "c[3] is 1e+300; it must be a number from -1000 to 1000."),
        ({"c": [0.0, "aGk=", 0.0, 0.0]}, "c is a list of 4"),
        ({"c": "?"}, "c is not valid base64."),
        ({"c": ["?"]}, "c[0] is not valid base64."),
        ({"label": 0}, "label is given, but the decoder of this model takes none."),
    ],
)
def test_an_invalid_operand_is_refused(
    image_generation_client: httpx.Client, change: dict[str, Any], message: str
) -> None:
    body = {name: [0.0] * 4 for name in "abc"} | change

    assert_problem(image_generation_client.post(f"{VAE}/arithmetic", json=body), 422, "invalid_parameter", message)


def test_a_model_without_an_encoder_is_refused(image_generation_client: httpx.Client, gan: TinyImageGenerator) -> None:
    image = to_base64(gan.images(1)[0])
    message = "'tiny-gan' has no encoder"

    walked = image_generation_client.post(f"{GAN}/interpolate", json={"images": [image, image]})
    computed = image_generation_client.post(f"{GAN}/arithmetic", json=dict.fromkeys("abc", image))

    assert_problem(walked, 422, "unsupported_task", message)
    assert_problem(computed, 422, "unsupported_task", message)
    assert_problem(
        image_generation_client.post("/v1/models/tiny/interpolate", json={}), 422, "unsupported_task", "'tiny' does"
    )


def test_the_service_logged_no_error(image_generation_service: RunningService) -> None:
    assert [record for record in image_generation_service.records if record["level"] == "ERROR"] == []
