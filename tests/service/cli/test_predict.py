"""`hotplate predict` against the real service."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing
from PIL import Image

from tests.fake_models.classification import LABELS, LinearClassifier
from tests.servers import RunningService
from tests.service.cli.command import NOBODY, run
from tests.service.http.calls import encoded


def predict(service: RunningService, *arguments: object) -> typer.testing.Result:
    return run("predict", *arguments, HOTPLATE_URL=service.url)


@pytest.fixture
def shoe(tmp_path: Path, network: LinearClassifier) -> Path:
    """A file of one image."""
    path = tmp_path / "shoe.png"
    path.write_bytes(encoded(network.images(1)[0]))
    return path


def test_the_likeliest_labels_are_printed(service: RunningService, network: LinearClassifier, shoe: Path) -> None:
    result = predict(service, shoe, "-m", "tiny", "--top-k", "2")

    probabilities = network.outputs(network.images(1))["probabilities"][0]
    best = probabilities.argmax()
    assert result.exit_code == 0, result.output
    assert LABELS[best] in result.stdout
    assert f"{probabilities[best]:.3f}" in result.stdout
    assert sum(label in result.stdout for label in LABELS) == 2
    assert result.stderr == ""


def test_a_classifier_is_found_by_its_task_and_named(service: RunningService, shoe: Path) -> None:
    result = predict(service, shoe)

    assert result.exit_code == 0, result.output
    assert "Classified by photo" in result.stderr
    assert result.stdout == predict(service, shoe, "-m", "photo").stdout


def test_explanations_are_written_as_images(service: RunningService, shoe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"

    result = predict(service, shoe, "-m", "tiny", "--explain", folder)

    assert result.exit_code == 0, result.output
    with Image.open(folder / "shoe.explanation.png") as explanation:
        assert explanation.format == "PNG"


def test_the_services_errors_reach_the_user(service: RunningService, tmp_path: Path, shoe: Path) -> None:
    text = tmp_path / "note.txt"
    text.write_text("hello")

    for file, model, words in ((text, "tiny", "'text/plain'"), (shoe, "none", "photo, tiny, tiny-dark")):
        result = predict(service, file, "-m", model)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_file_that_does_not_exist_is_named() -> None:
    result = run("predict", "nowhere.png", "--url", NOBODY)

    assert result.exit_code == 2
    assert "nowhere.png" in result.stderr
