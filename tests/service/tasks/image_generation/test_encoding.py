"""`encode`, `embed` and `reconstruct` of image generators, against the network computed in NumPy."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.images import prepare
from service.tasks.image_generation.process import complexity_nats, sample
from service.tasks.image_generation.rendering import error_colors
from tests.fake_models.image_generation import (
    HEIGHT,
    LABELS,
    NUM_LATENTS,
    NUM_SAMPLES,
    WIDTH,
    Floats,
    TinyImageGenerator,
)
from tests.models.samples import noise
from tests.service.http.calls import RAW, TOLERANCE, as_files, as_json, assert_problem, encoded

VAE, LABELLED, GAN, SEEN = "tiny-vae", "tiny-labelled-vae", "tiny-gan", "tiny"


def path(verb: str, model: str = VAE) -> str:
    return f"/v1/models/{model}/{verb}"


def results(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def assert_encoded(response: httpx.Response, expected: dict[str, NDArray[Any]]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose([result[name] for result in results(response)], values, atol=TOLERANCE)


def seeded_noise(seed: int, num_rows: int) -> Floats:
    one = sample([seed], 1, NUM_SAMPLES * NUM_LATENTS).noise.reshape(1, NUM_SAMPLES, NUM_LATENTS)
    return np.repeat(one, num_rows, axis=0)


def opened(text: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(b64decode(text))))


def test_images_are_accepted_in_every_form_that_classify_accepts(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    rows = vae.images(3)
    expected = vae.encode(rows)
    first = {name: values[:1] for name, values in expected.items()}

    assert_encoded(image_generation_client.post(path("encode"), json=as_json(rows)), expected)
    assert_encoded(image_generation_client.post(path("encode"), files=as_files(rows)), expected)
    assert_encoded(image_generation_client.post(path("encode"), content=encoded(rows[0])), first)
    assert_encoded(image_generation_client.post(path("encode"), content=rows[0].tobytes(), headers=RAW), first)


def test_an_answer_has_its_model_and_timing(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    response = image_generation_client.post(path("encode"), content=encoded(vae.images(1)[0]))

    assert response.json().keys() == {"model", "version", "results"}
    assert (response.json()["model"], response.json()["version"]) == (VAE, "1")
    assert "compute;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize("invert", ["auto", "true"])
def test_a_photograph_is_prepared_as_for_a_classifier(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, invert: Any
) -> None:
    body = encoded(noise(300, 200).reshape(300, 200, 3), "JPEG")
    row = prepare(body, HEIGHT, WIDTH, 1, invert=invert)

    response = image_generation_client.post(path("encode"), params={"invert": invert}, content=body)

    assert_encoded(response, vae.encode(row[None]))


def test_images_of_several_chunks_keep_their_order(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    rows = vae.images(41)

    assert_encoded(image_generation_client.post(path("encode"), json=as_json(rows)), vae.encode(rows))


def test_the_embedding_is_the_mean(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    rows = vae.images(2)

    response = image_generation_client.post(path("embed"), json=as_json(rows))

    assert all(result.keys() == {"embedding"} for result in results(response))
    assert_encoded(response, {"embedding": vae.encode(rows)["mean"]})


def test_a_latent_survives_decoding_and_encoding(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    latents = np.random.default_rng(3).normal(0, 0.7, (4, NUM_LATENTS)).astype(np.float32)
    drawn = image_generation_client.post(path("decode"), json={"latents": latents.tolist()}).json()["images"]

    response = image_generation_client.post(path("encode"), json={"images": [image["image"] for image in drawn]})

    again = np.array([result["mean"] for result in results(response)])
    np.testing.assert_allclose(again, latents, atol=0.1)


@pytest.mark.parametrize("label", ["Ankle boot", "ANKLE BOOT", 1, "1"])
def test_a_labelled_encoder_gets_the_label(
    image_generation_client: httpx.Client, labelled_vae: TinyImageGenerator, label: str | int
) -> None:
    rows = labelled_vae.images(3)
    expected = labelled_vae.encode(rows, np.ones(3, np.int64))
    assert np.abs(expected["mean"] - labelled_vae.encode(rows)["mean"]).max() > 100 * TOLERANCE

    assert_encoded(image_generation_client.post(path("encode", LABELLED), json=as_json(rows, label=label)), expected)
    one = {name: values[:1] for name, values in expected.items()}
    query = image_generation_client.post(path("encode", LABELLED), params={"label": label}, content=encoded(rows[0]))
    assert_encoded(query, one)
    (embedded,) = results(
        image_generation_client.post(path("embed", LABELLED), params={"label": label}, content=encoded(rows[0]))
    )
    np.testing.assert_allclose(embedded["embedding"], one["mean"][0], atol=TOLERANCE)


def test_a_reconstruction_comes_with_its_errors_and_its_score(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    rows = vae.images(5)
    expected = vae.reconstruct(rows, seeded_noise(0, 5))

    found = results(image_generation_client.post(path("reconstruct"), json=as_json(rows)))

    heat = error_colors(expected["error_map"], 1)
    for index, result in enumerate(found):
        assert result.keys() == {"image", "error_map", "anomaly_score", "negative_elbo", "rate", "distortion"}
        drawn = expected["reconstruction"][index, :, :, 0].astype(int)
        assert np.abs(opened(result["image"]) - drawn).max() <= 1
        assert opened(result["error_map"]).shape == (HEIGHT, WIDTH, 3)
        assert np.abs(opened(result["error_map"]) - heat[index].astype(int)).max() <= 8
        for name in ("rate", "distortion"):
            np.testing.assert_allclose(result[name], expected[name][index], rtol=1e-3)
        assert result["negative_elbo"] == pytest.approx(result["rate"] + result["distortion"])
        assert result["anomaly_score"] == pytest.approx(result["negative_elbo"] - complexity_nats(rows[index]))


def test_a_reconstruction_can_echo_the_input(image_generation_client: httpx.Client, vae: TinyImageGenerator) -> None:
    rows = vae.images(2)

    found = results(image_generation_client.post(path("reconstruct"), json=as_json(rows, echo_input=True)))
    turned = results(
        image_generation_client.post(
            path("reconstruct"), params={"echo_input": "true", "invert": "true"}, content=encoded(rows[0])
        )
    )

    np.testing.assert_array_equal([opened(one["input"]) for one in found], rows[..., 0])
    np.testing.assert_array_equal(opened(turned[0]["input"]), 255 - rows[0, :, :, 0])


def test_a_score_does_not_depend_on_the_other_images(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    rows = vae.images(20)
    together = results(image_generation_client.post(path("reconstruct"), json=as_json(rows)))

    alone = [results(image_generation_client.post(path("reconstruct"), content=encoded(row)))[0] for row in rows[::7]]

    for one, same in zip(alone, together[::7], strict=True):
        assert one["image"] == same["image"]
        assert one["negative_elbo"] == pytest.approx(same["negative_elbo"], rel=1e-5)


def test_another_seed_changes_the_scores_but_not_the_reconstruction(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    rows = vae.images(1)
    found = {
        seed: results(image_generation_client.post(path("reconstruct"), params=seed, content=encoded(rows[0])))[0]
        for seed in ("", "seed=0", "seed=5", "seed=9007199254740991")
    }
    expected = vae.reconstruct(rows, seeded_noise(5, 1))

    assert found[""] == found["seed=0"]
    assert len({result["distortion"] for result in found.values()}) == 3
    assert {(result["image"], result["rate"]) for result in found.values()} == {(found[""]["image"], found[""]["rate"])}
    np.testing.assert_allclose(found["seed=5"]["distortion"], expected["distortion"][0], rtol=1e-3)


def test_an_image_unlike_the_training_data_scores_high(
    image_generation_client: httpx.Client, vae: TinyImageGenerator
) -> None:
    usual, odd = vae.images(8), noise(8 * HEIGHT, WIDTH, 1).reshape(8, HEIGHT, WIDTH, 1)

    found = results(image_generation_client.post(path("reconstruct"), json=as_json(np.concatenate([usual, odd]))))

    scores = [result["anomaly_score"] for result in found]
    assert max(scores[:8]) < min(scores[8:])


def test_a_labelled_reconstruction_gets_the_label(
    image_generation_client: httpx.Client, labelled_vae: TinyImageGenerator
) -> None:
    rows = labelled_vae.images(2)
    expected = labelled_vae.reconstruct(rows, seeded_noise(0, 2), np.full(2, 2))

    found = results(image_generation_client.post(path("reconstruct", LABELLED), json=as_json(rows, label="sneaker")))

    np.testing.assert_allclose([one["distortion"] for one in found], expected["distortion"], rtol=1e-3)


@pytest.mark.parametrize(("query", "accept"), [("", "image/png"), ("format=png", "*/*"), ("format=png", "text/html")])
def test_a_strip_shows_input_reconstruction_and_errors(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, query: str, accept: str
) -> None:
    rows = vae.images(2)

    response = image_generation_client.post(
        path("reconstruct"), params=query, json=as_json(rows), headers={"accept": accept}
    )

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert "encode;dur=" in response.headers["server-timing"]
    sheet = np.asarray(Image.open(BytesIO(response.content))).astype(int)
    side, gap, line = 11 * WIDTH, 4, 11 * HEIGHT + 14 + 4
    drawn = vae.reconstruct(rows, seeded_noise(0, 2))["reconstruction"]
    for index in range(2):
        top = gap + index * line
        panes = [sheet[top : top + side : 11, gap + pane * (side + gap) :][:, :side:11] for pane in range(3)]
        assert np.array_equal(panes[0], np.repeat(rows[index], 3, axis=2))
        assert np.abs(panes[1] - np.repeat(drawn[index], 3, axis=2)).max() <= 1
        assert np.ptp(panes[2], axis=-1).max() > 0


@pytest.mark.parametrize("query", ["format=json", ""])
def test_json_is_the_answer_where_nothing_else_is_named(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, query: str
) -> None:
    response = image_generation_client.post(path("reconstruct"), params=query, content=encoded(vae.images(1)[0]))

    assert response.headers["content-type"] == "application/json"
    assert len(results(response)) == 1


@pytest.mark.parametrize("verb", ["encode", "reconstruct", "embed"])
def test_a_model_without_an_encoder_is_refused(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, verb: str
) -> None:
    response = image_generation_client.post(path(verb, GAN), content=encoded(vae.images(1)[0]))

    assert_problem(response, 422, "unsupported_task", "'tiny-gan' has no encoder")


@pytest.mark.parametrize("verb", ["encode", "reconstruct"])
def test_a_classifier_neither_encodes_nor_reconstructs(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, verb: str
) -> None:
    response = image_generation_client.post(path(verb, SEEN), content=encoded(vae.images(1)[0]))

    assert_problem(response, 422, "unsupported_task", "'tiny' does image-classification", "image-generation")


def test_a_text_generator_without_the_graph_embeds_nothing(image_generation_client: httpx.Client) -> None:
    response = image_generation_client.post(path("embed", "tiny-transformer"), json={"text": "a"})

    assert_problem(response, 422, "unsupported_task", "tiny-transformer")


@pytest.mark.parametrize(
    ("verb", "model", "query", "quoted"),
    [
        ("encode", VAE, "label=Bag", ("label is given", "takes none")),
        ("reconstruct", VAE, "label=Bag", ("label is given", "takes none")),
        ("encode", LABELLED, "", ("label is missing",)),
        ("embed", LABELLED, "", ("label is missing",)),
        ("reconstruct", LABELLED, "", ("label is missing",)),
        ("encode", LABELLED, "label=Boot", ("'Boot'", *LABELS)),
        ("encode", LABELLED, "label=3", ("3", *LABELS)),
        ("encode", VAE, "invert=yes", ("invert is 'yes'", "auto, true or false")),
        ("encode", VAE, "seed=1", ("'seed'", "invert, label")),
        ("reconstruct", VAE, "seed=1e3", ("seed is '1e3'",)),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(
    image_generation_client: httpx.Client,
    vae: TinyImageGenerator,
    verb: str,
    model: str,
    query: str,
    quoted: tuple[str, ...],
) -> None:
    response = image_generation_client.post(path(verb, model), params=query, content=encoded(vae.images(1)[0]))

    assert_problem(response, 422, "invalid_parameter", *quoted)


@pytest.mark.parametrize(
    "members",
    [{"seed": 1.5}, {"seed": True}, {"label": ["Bag"]}, {"label": 1.5}, {"latents": []}, {"images": "x"}],
)
def test_a_body_of_another_form_is_refused(
    image_generation_client: httpx.Client, vae: TinyImageGenerator, members: dict[str, Any]
) -> None:
    response = image_generation_client.post(path("reconstruct"), json=as_json(vae.images(1)) | members)

    assert_problem(response, 422, "invalid_parameter")


@pytest.mark.parametrize("verb", ["encode", "embed", "reconstruct"])
def test_a_body_that_is_not_an_image_is_refused_as_by_classify(
    image_generation_client: httpx.Client, verb: str
) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    cut = encoded(pixels)[:-20]

    assert_problem(image_generation_client.post(path(verb), content=cut), 422, "undecodable_image")
    assert_problem(image_generation_client.post(path(verb), content=b"hello"), 415, "unsupported_media_type")
    assert_problem(
        image_generation_client.post(path(verb), content=pixels.tobytes()[1:], headers=RAW),
        422,
        "invalid_parameter",
        "63",
    )
    assert_problem(image_generation_client.post(path(verb), json={"images": []}), 422, "invalid_parameter")
    many = as_json(np.zeros((65, HEIGHT, WIDTH, 1), np.uint8))
    assert_problem(image_generation_client.post(path(verb), json=many), 413, "payload_too_large", "65")
