"""OpenAI's embeddings and images, as OpenAI's own client reads them from the real service, against our own routes."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.fake_models.image_generation import HEIGHT, LABELS, NUM_LATENTS, WIDTH
from tests.models.samples import noise
from tests.servers import RunningService
from tests.service.tasks.style_transfer.stylized import encoded, opened

FILES = [encoded(np.roll(noise(HEIGHT, WIDTH), number, axis=0)) for number in range(3)]


def urls(files: list[bytes]) -> list[str]:
    return [f"data:image/png;base64,{b64encode(file).decode()}" for file in files]


def connected(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def client(image_generation_service: RunningService) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service of image generators."""
    yield from connected(image_generation_service)


@pytest.fixture
def painter(style_transfer_service: RunningService) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service of the stylizer."""
    yield from connected(style_transfer_service)


def own(client: httpx.Client, model: str) -> NDArray[np.float64]:
    """The embeddings of our own route, scaled to length 1."""
    files = [("file", (f"{number}.png", file, "image/png")) for number, file in enumerate(FILES)]
    results = client.post(f"/v1/models/{model}/embed", files=files).json()["results"]
    vectors = np.array([result["embedding"] for result in results])
    scaled: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


# --- embeddings ---


@pytest.mark.parametrize("model", ["tiny", "tiny-vae"])
@pytest.mark.parametrize("form", ["float", "base64", None])
def test_images_are_embedded_as_by_embed(
    client: openai.OpenAI, image_generation_client: httpx.Client, model: str, form: Any
) -> None:
    extra = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model=model, input=urls(FILES), **extra)

    vectors: Any = [item.embedding for item in answer.data]
    if form == "base64":
        vectors = [np.frombuffer(b64decode(text), "<f4") for text in vectors]
    np.testing.assert_allclose(vectors, own(image_generation_client, model), atol=1e-5)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", model)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (0, 0)


def test_one_image_needs_no_list_and_a_vector_can_be_shortened(
    client: openai.OpenAI, image_generation_client: httpx.Client
) -> None:
    whole = own(image_generation_client, "tiny-vae")[0]
    dimensions = NUM_LATENTS - 1

    answer = client.embeddings.create(model="tiny-vae", input=urls(FILES)[0], dimensions=dimensions)

    (item,) = answer.data
    kept = whole[:dimensions]
    np.testing.assert_allclose(item.embedding, kept / np.linalg.norm(kept), atol=1e-5)


@pytest.mark.parametrize("model", ["tiny-transformer", "tiny-gan"])
def test_a_model_that_embeds_nothing_names_those_that_do(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match=r"'tiny', 'tiny-labelled-vae', 'tiny-vae'") as caught:
        client.embeddings.create(model=model, input="a text")

    assert (caught.value.code, caught.value.param) == ("unsupported_task", "model")


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"input": "a text"}, "input", r"input\[0\] is no image"),
        ({"input": [*urls(FILES[:1]), "data:image/png;base64,?"]}, "input", r"input\[1\] is no image"),
        ({"input": []}, "input", "1 to 2048"),
        ({"input": [1, 2]}, "input", "data: URL"),
        ({"dimensions": NUM_LATENTS + 1}, "dimensions", f"have {NUM_LATENTS}"),
        ({"encoding_format": "hex"}, "encoding_format", "base64 or float"),
        ({"inputs": "a"}, "inputs", "did you mean input"),
    ],
)
def test_a_bad_request_for_embeddings_has_openais_error(
    client: openai.OpenAI, body: dict[str, Any], param: str, told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as caught:
        client.embeddings.create(model="tiny-vae", input=urls(FILES), extra_body=body)

    assert caught.value.param == param


def test_what_is_no_image_is_not_decoded(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="tiny", input=urls([b"GIF89a" * 9]))

    assert caught.value.status_code in (400, 415)


# --- images ---


def test_a_prompt_is_a_label_or_several(client: openai.OpenAI, image_generation_client: httpx.Client) -> None:
    wanted = {"label": ["Sneaker", "Bag", "Sneaker"], "seed": 7}
    expected = image_generation_client.post("/v1/models/tiny-gan/generate", json=wanted).json()["images"]

    made = client.images.generate(model="tiny-gan", prompt="sneaker, Bag", n=3, extra_body={"seed": 7})
    every = client.images.generate(model="tiny-gan", prompt=", ".join(LABELS))

    assert made.data is not None
    assert [image.b64_json for image in made.data] == [image["image"] for image in expected]
    assert [image.revised_prompt for image in made.data] == ["Sneaker", "Bag", "Sneaker"]
    assert made.output_format == "png"
    assert made.created > 1_700_000_000
    assert every.data is not None
    assert [image.revised_prompt for image in every.data] == list(LABELS)


def test_an_image_may_be_a_url_that_holds_it(client: openai.OpenAI) -> None:
    size: Any = f"{WIDTH}x{HEIGHT}"
    made = client.images.generate(model="tiny-gan", prompt="", response_format="url", size=size, quality="high")

    assert made.data is not None
    (image,) = made.data
    assert image.b64_json is None
    assert image.url is not None
    head, _, content = image.url.partition(",")
    assert head == "data:image/png;base64"
    assert opened(b64decode(content)).shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"prompt": "a unicorn"}, "prompt", "'a unicorn'; known are Bag"),
        ({"size": "1024x1024"}, "size", f"{WIDTH}x{HEIGHT} or auto"),
        ({"n": 0}, "n", "from 1"),
        ({"output_format": "jpeg"}, "output_format", "png"),
        ({"background": "transparent"}, "background", "auto"),
        ({"model": "tiny"}, None, "image-classification"),
    ],
)
def test_a_bad_request_for_images_has_openais_error(
    client: openai.OpenAI, body: dict[str, Any], param: str | None, told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as caught:
        client.images.generate(model="tiny-gan", prompt="Bag", extra_body=body)

    assert caught.value.param == param


# --- edits ---


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Night", {"style": "night"}),
        ("waves, night", {"styles": "waves:1,night:1"}),
        ("waves:0.75, Night : 0.25", {"styles": "waves:0.75,night:0.25"}),
    ],
)
def test_an_edit_is_a_style_or_a_blend(
    painter: openai.OpenAI, style_transfer_client: httpx.Client, prompt: str, query: dict[str, str]
) -> None:
    photo = encoded(noise(48, 40))
    path = "/v1/models/tiny-stylizer/stylize"
    expected = style_transfer_client.post(path, params=query, content=photo, headers={"content-type": "image/png"})

    edited = painter.images.edit(model="tiny-stylizer", prompt=prompt, image=("photo.png", photo, "image/png"))

    assert edited.data is not None
    assert edited.data[0].b64_json is not None
    np.testing.assert_array_equal(opened(b64decode(edited.data[0].b64_json)), opened(expected.content))
    assert edited.output_format == "png"


def test_several_images_are_edited_in_the_format_that_was_asked_for(painter: openai.OpenAI) -> None:
    photos: Any = [("a.png", encoded(noise(48, 40)), "image/png"), ("b.png", encoded(noise(32, 64)), "image/png")]

    edited = painter.images.edit(
        model="tiny-stylizer",
        prompt="fields",
        image=photos,
        output_format="jpeg",
        output_compression=70,
        response_format="url",
        size="auto",
        n=1,
    )

    assert edited.data is not None
    shapes = []
    for image in edited.data:
        assert image.url is not None
        head, _, content = image.url.partition(",")
        assert head == "data:image/jpeg;base64"
        shapes.append(opened(b64decode(content)).shape)
    assert shapes == [(48, 40, 3), (32, 64, 3)]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"prompt": "cubism"}, "prompt", "'cubism'; known are waves"),
        ({"prompt": ""}, "prompt", "prompt"),
        ({"n": 2}, "n", "from 1 to 1"),
        ({"size": "256x256"}, "size", "keeps its size"),
        ({"mask": ("m.png", FILES[0], "image/png")}, "mask", "only image is taken"),
        ({"strenght": "1"}, "strenght", "did you mean strength"),
    ],
)
def test_a_bad_edit_has_openais_error(painter: openai.OpenAI, body: dict[str, Any], param: str, told: str) -> None:
    given: dict[str, Any] = {"model": "tiny-stylizer", "prompt": "night", "image": ("a.png", encoded(noise(48, 40)))}
    known = {name: value for name, value in body.items() if name != "strenght"}
    extra = {name: value for name, value in body.items() if name == "strenght"}

    with pytest.raises(openai.BadRequestError, match=told) as caught:
        painter.images.edit(**given | known, extra_body=extra)

    assert caught.value.param == param


def test_an_edit_without_a_form_is_refused(style_transfer_client: httpx.Client) -> None:
    response = style_transfer_client.post("/v1/images/edits", json={"model": "tiny-stylizer", "prompt": "night"})

    assert response.status_code == 415
    assert "multipart/form-data" in response.json()["error"]["message"]
