"""A classifier that measures novelty says so in every answer, and on the command line; others omit it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.manifest import Novelty
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.cli.command import run
from tests.service.http.calls import TOLERANCE, as_json, encoded

CALIBRATION = Novelty(measure="lightness", quantile=0.95, num_held_out=100, test_share=0.06)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("novelty")
    LinearClassifier(has_novelty=True).write(folder, "wary", novelty=CALIBRATION)
    LinearClassifier().write(folder, "sure")
    with RunningService(folder, "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


def dark_and_light() -> NDArray[np.uint8]:
    images = LinearClassifier().images(2) // 4
    images[1] += 190
    return images


def classify(service: RunningService, model: str, query: str = "") -> list[dict[str, object]]:
    answer = httpx.post(f"{service.url}/v1/models/{model}/classify{query}", json=as_json(dark_and_light()))
    results: list[dict[str, object]] = answer.raise_for_status().json()["results"]
    return results


@pytest.mark.parametrize("query", ["", "?explain=true"])
def test_every_image_has_its_own_novelty_and_is_novel_above_one(service: RunningService, query: str) -> None:
    dark, light = classify(service, "wary", query)
    expected = LinearClassifier(has_novelty=True).outputs(dark_and_light())["novelty"]
    assert [dark["novelty"], light["novelty"]] == pytest.approx(expected, abs=TOLERANCE)
    assert (dark["is_novel"], light["is_novel"]) == (False, True)


def test_a_classifier_without_the_output_omits_both(service: RunningService) -> None:
    assert all(result.keys() == {"predictions"} for result in classify(service, "sure"))


def test_the_card_and_the_api_document_explain_it(service: RunningService) -> None:
    card = httpx.get(f"{service.url}/v1/models/wary").json()
    schemas = httpx.get(f"{service.url}/openapi.json").json()["components"]["schemas"]
    assert card["manifest"]["novelty"]["test_share"] == 0.06
    assert "0.06" not in httpx.get(f"{service.url}/v1/models/sure").text
    assert {"novelty", "is_novel"} <= schemas["Classification"]["properties"].keys()
    assert "novelty" not in schemas["Classification"]["required"]


def test_the_command_line_names_the_novel_files(service: RunningService, tmp_path: Path) -> None:
    files = [tmp_path / "dark.png", tmp_path / "light.png"]
    for file, image in zip(files, dark_and_light(), strict=True):
        file.write_bytes(encoded(image))

    result = run("predict", *files, "-m", "wary", "--invert", "false", HOTPLATE_URL=service.url)
    plain = run("predict", *files, "-m", "sure", HOTPLATE_URL=service.url)
    shown = run("models", "show", "wary", HOTPLATE_URL=service.url)

    novelties = LinearClassifier(has_novelty=True).outputs(dark_and_light())["novelty"]
    assert all(f"{value:.2f}" in result.stdout for value in novelties)
    assert "trained on: light.png." in result.stdout
    assert "novel" not in plain.stdout
    assert "6.0%" in shown.stdout
