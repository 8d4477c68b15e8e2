"""`hotplate generate` against the real service, and where it puts what it gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
import typer.testing
from PIL import Image

from service.cli.client import BadUsage
from service.cli.generate import default_output, plan_target, request_body
from tests.fake_models.image_generation import LABELS, TinyImageGenerator
from tests.servers import RunningService
from tests.service.cli.command import NOBODY, run, stranger

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generate(service: RunningService, *arguments: object) -> typer.testing.Result:
    return run("generate", *arguments, HOTPLATE_URL=f"{service.url}/")


def asked(service: RunningService, model: str, **body: Any) -> httpx.Response:
    response = httpx.post(f"{service.url}/v1/models/{model}/generate", json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response


def test_a_grid_is_written_to_the_named_file(image_generation_service: RunningService, here: Path) -> None:
    options = ("--label", "bag", "-n", 6, "--seed", 5, "--temperature", 0.5, "--truncation", 1.5)

    result = generate(image_generation_service, "tiny-gan", *options, "-o", "new/bags.png")

    assert result.exit_code == 0, result.output
    assert result.stdout == "new/bags.png\n"
    assert result.stderr == "tiny-gan, seed 5: 6 images\n"
    same = {"label": "Bag", "num_images": 6, "seed": 5, "temperature": 0.5, "truncation": 1.5}
    expected = asked(image_generation_service, "tiny-gan", **same, format="png")
    assert (here / "new" / "bags.png").read_bytes() == expected.content


def test_the_first_model_for_the_task_names_the_file(image_generation_service: RunningService, here: Path) -> None:
    result = generate(image_generation_service, "--seed", 1)

    assert result.exit_code == 0, result.output
    model = re.match("tiny-[a-z-]+", result.stderr)
    assert model is not None
    assert result.stdout == f"{model[0]}.png\n"
    with Image.open(here / f"{model[0]}.png") as image:
        assert image.format == "PNG"


def test_the_printed_seed_gives_the_same_images_again(image_generation_service: RunningService, here: Path) -> None:
    first = generate(image_generation_service, "tiny-vae@1", "-n", 3)
    seed = re.search(r"seed (\d+)", first.stderr)
    assert seed is not None
    before = (here / "tiny-vae.png").read_bytes()

    generate(image_generation_service, "tiny-vae", "-n", 3, "--seed", seed[1], "-o", "again.PNG")

    assert (here / "again.PNG").read_bytes() == before


def test_a_folder_gets_a_file_for_each_picture(
    image_generation_service: RunningService, gan: TinyImageGenerator, here: Path
) -> None:
    options = ("-l", "Sneaker", "-l", "1", "-n", 5, "--seed", 40)

    result = generate(image_generation_service, "tiny-gan", *options, "-o", "drawn")

    assert result.exit_code == 0, result.output
    names = ["40-Sneaker.png", "41-Ankle_boot.png", "42-Sneaker.png", "43-Ankle_boot.png", "44-Sneaker.png"]
    assert sorted(file.name for file in (here / "drawn").iterdir()) == names
    images = asked(image_generation_service, "tiny-gan", seed=42, label="Sneaker", latents=True).json()["images"]
    expected = gan.decode(np.array([images[0]["latent"]], np.float32), np.array([2]))
    with Image.open(here / "drawn" / names[2]) as image:
        assert np.array_equal(np.asarray(image), expected[0, :, :, 0])


def test_a_zip_file_holds_one_of_each_label(image_generation_service: RunningService, here: Path) -> None:
    labels = [part for label in LABELS for part in ("-l", label)]

    result = generate(image_generation_service, "tiny-gan", *labels, "--seed", 7, "-o", "all.zip")

    assert result.exit_code == 0, result.output
    assert result.stderr.endswith(": 3 images\n")
    with ZipFile(here / "all.zip") as archive:
        assert archive.namelist() == ["7-Bag.png", "8-Ankle_boot.png", "9-Sneaker.png"]


def test_standard_output_gets_the_picture_and_nothing_else(
    image_generation_service: RunningService, here: Path
) -> None:
    result = generate(image_generation_service, "tiny-gan", "--seed", 3, "-o", "-")

    assert result.exit_code == 0, result.output
    with Image.open(BytesIO(result.stdout_bytes)) as image:
        image.load()
    assert result.stdout_bytes == asked(image_generation_service, "tiny-gan", seed=3, format="png").content
    assert result.stderr == "tiny-gan, seed 3: 1 image\n"
    assert list(here.iterdir()) == []


def test_an_image_is_not_written_to_a_terminal() -> None:
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "service", "generate", "-o", "-", "--url", NOBODY]
    try:
        ended = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    finally:
        os.close(terminal)
        os.close(ours)

    assert ended.returncode == 2
    assert "is a terminal" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny-gan", "-l", "Boot"), "There is no label 'Boot'; known are Bag (0), Ankle boot (1), Sneaker (2)."),
        (("tiny-gan", "-n", "0"), "num_images is 0; it must be a whole number from 1 to 256."),
        (("tiny-gan", "-n", "1000000000", "-l", "0", "-l", "1"), "num_images is 1000000000; it must be a whole number"),
        (("tiny-gan", "--seed", "-1"), "seed is -1"),
        (("tiny-gan", "--temperature", "3"), "temperature is 3.0"),
        (("tiny-gan", "--truncation", "0"), "truncation is 0.0"),
        (("tiny",), "'tiny' does image-classification"),
        (("none",), "There is no model 'none'"),
    ],
)
def test_the_services_errors_reach_the_user(
    image_generation_service: RunningService, here: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = generate(image_generation_service, *arguments)

    assert result.exit_code == 1
    assert told in result.stderr
    assert list(here.iterdir()) == []


def test_a_language_model_writes_no_image(image_generation_service: RunningService, here: Path) -> None:
    result = generate(image_generation_service, "tiny-transformer")

    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("output", "told"), [("bags.jpg", ".png or .zip"), ("bags.png.gz", ".png or .zip")])
def test_another_kind_of_file_is_refused_before_anything_is_asked(output: str, told: str) -> None:
    result = run("generate", "-o", output, "--url", NOBODY)

    assert result.exit_code == 2
    assert told in result.stderr
    assert repr(output) in result.stderr


def test_a_file_that_cannot_be_written_is_named(image_generation_service: RunningService, here: Path) -> None:
    (here / "file").write_text("not a folder")

    for output in ("file/bags.png", "file/"):
        result = generate(image_generation_service, "tiny-gan", "-o", output)
        assert result.exit_code == 1
        assert "file" in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.parametrize(("media_type", "seed"), [("text/html", "1"), ("image/png", ""), ("image/png", "one")])
def test_another_kind_of_server_is_recognised(here: Path, media_type: str, seed: str) -> None:
    with stranger(content_type=media_type, x_seed=seed) as url:
        result = run("generate", "any", "--url", url)

    assert result.exit_code == 1
    assert "the answer is not Hotplate's" in result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("-", "stdout"),
        ("bags.png", "png"),
        ("a.b/bags.PNG", "png"),
        ("bags.zip", "zip"),
        ("bags", "folder"),
        ("bags.png/", "folder"),
        ("there.png", "folder"),
    ],
)
def test_the_suffix_decides_what_is_written(here: Path, output: str, kind: str) -> None:
    (here / "there.png").mkdir()

    assert plan_target(output).kind == kind


def test_an_unknown_suffix_is_the_command_lines_fault() -> None:
    with pytest.raises(BadUsage, match=r"'bags\.gif' must end with \.png or \.zip"):
        plan_target("bags.gif")


@pytest.mark.parametrize(
    ("model", "name"), [("fashion-gan", "fashion-gan.png"), ("m@2", "m.png"), ("../x", "x.png"), ("@", "images.png")]
)
def test_the_file_is_named_after_the_model(model: str, name: str) -> None:
    assert default_output(model) == name


@pytest.mark.parametrize(
    ("labels", "num_images", "count", "label"),
    [
        ([], None, 1, None),
        ([], 4, 4, None),
        (["Bag"], None, 1, "Bag"),
        (["Bag"], 36, 36, "Bag"),
        (["Bag", "0"], None, 2, ["Bag", "0"]),
        (["Bag", "0"], 5, 5, ["Bag", "0", "Bag", "0", "Bag"]),
        (["Bag", "0"], 1, 1, ["Bag"]),
    ],
)
def test_labels_take_turns(
    labels: list[str], num_images: int | None, count: int, label: str | list[str] | None
) -> None:
    body = request_body(labels, num_images, None, None, None)

    assert body.pop("num_images") == count
    assert body == ({} if label is None else {"label": label})
