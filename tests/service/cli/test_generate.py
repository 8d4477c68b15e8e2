"""`hotplate generate` against the real service, and where it puts what it gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
import typer.testing
from PIL import Image

from service.cli.generate import GeneratingFailed, default_output, plan_target, request_body
from tests.fake_models.image_generation import LABELS, TinyImageGenerator
from tests.servers import RunningService
from tests.service.cli.test_main import NOBODY, run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generate(service: RunningService, *arguments: object) -> typer.testing.Result:
    return run("generate", *map(str, arguments), HOTPLATE_URL=f"{service.url}/")


def asked(service: RunningService, model: str, **body: Any) -> httpx.Response:
    response = httpx.post(f"{service.url}/v1/models/{model}/generate", json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response


def test_a_grid_is_drawn_into_the_file_that_is_named(image_generation_service: RunningService, here: Path) -> None:
    options = ("--label", "bag", "-n", 6, "--seed", 5, "--temperature", 0.5, "--truncation", 1.5)

    result = generate(image_generation_service, "tiny-gan", *options, "-o", "new/bags.png")

    assert result.exit_code == 0, result.output
    assert result.stdout == "new/bags.png\n"
    assert result.stderr == "tiny-gan, seed 5: 6 pictures\n"
    same = {"label": "Bag", "num_images": 6, "seed": 5, "temperature": 0.5, "truncation": 1.5}
    expected = asked(image_generation_service, "tiny-gan", **same, format="png")
    assert (here / "new" / "bags.png").read_bytes() == expected.content


def test_without_a_model_or_a_file_the_first_that_draws_names_both(
    image_generation_service: RunningService, here: Path
) -> None:
    result = generate(image_generation_service, "--seed", 1)

    assert result.exit_code == 0, result.output
    model = re.match("tiny-[a-z-]+", result.stderr)
    assert model is not None
    assert result.stdout == f"{model[0]}.png\n"
    with Image.open(here / f"{model[0]}.png") as image:
        assert image.format == "PNG"


def test_the_seed_that_is_told_draws_the_same_again(image_generation_service: RunningService, here: Path) -> None:
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
    assert result.stderr.endswith(": 3 pictures\n")
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
    assert result.stderr == "tiny-gan, seed 3: 1 picture\n"
    assert list(here.iterdir()) == []


def test_a_terminal_is_spared_the_picture() -> None:
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "service", "generate", "-o", "-", "--url", NOBODY]
    try:
        ended = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    finally:
        os.close(terminal)
        os.close(ours)

    assert ended.returncode == 2
    assert "nothing for a terminal" in ended.stderr


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
def test_the_services_own_words_reach_the_user(
    image_generation_service: RunningService, here: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = generate(image_generation_service, *arguments)

    assert result.exit_code == 1
    assert told in result.stderr
    assert list(here.iterdir()) == []


def test_a_text_generator_writes_no_picture(image_generation_service: RunningService, here: Path) -> None:
    result = generate(image_generation_service, "tiny-transformer")

    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert list(here.iterdir()) == []


def test_a_service_without_such_a_model_is_told_of(style_transfer_service: RunningService) -> None:
    result = generate(style_transfer_service)

    assert result.exit_code == 1
    assert "no model that draws pictures" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("tiny-gan",)])
def test_without_a_service_a_word_says_so(arguments: tuple[str, ...]) -> None:
    result = run("generate", *arguments, "--url", NOBODY)

    assert result.exit_code == 1
    assert f"No service answers at {NOBODY}" in result.stderr


@pytest.mark.parametrize(("output", "told"), [("bags.jpg", ".png or .zip"), ("bags.png.gz", ".png or .zip")])
def test_another_kind_of_file_is_refused_before_anything_is_asked(output: str, told: str) -> None:
    result = run("generate", "-o", output, "--url", NOBODY)

    assert result.exit_code == 2
    assert told in result.stderr
    assert repr(output) in result.stderr


def test_what_cannot_be_written_is_said(image_generation_service: RunningService, here: Path) -> None:
    (here / "file").write_text("not a folder")

    for output in ("file/bags.png", "file/"):
        result = generate(image_generation_service, "tiny-gan", "-o", output)
        assert result.exit_code == 1
        assert "file" in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.parametrize(("media_type", "seed"), [("text/html", "1"), ("image/png", ""), ("image/png", "one")])
def test_another_kind_of_server_is_recognised(here: Path, media_type: str, seed: str) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("x-seed", seed)
            self.end_headers()
            self.wfile.write(b"<h1>Welcome</h1>")

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        result = run("generate", "any", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()

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
def test_the_name_says_what_is_written(here: Path, output: str, kind: str) -> None:
    (here / "there.png").mkdir()

    assert plan_target(output).kind == kind


def test_an_unknown_suffix_is_the_command_lines_fault() -> None:
    with pytest.raises(GeneratingFailed, match=r"'bags\.gif' must end with \.png or \.zip") as caught:
        plan_target("bags.gif")
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("model", "name"), [("fashion-gan", "fashion-gan.png"), ("m@2", "m.png"), ("../x", "x.png"), ("@", "pictures.png")]
)
def test_the_file_is_called_as_the_model(model: str, name: str) -> None:
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


def test_help_tells_what_holds_where_nothing_is_said() -> None:
    page = run("generate", "--help").stdout

    assert "(default: the first that draws)" in page
    assert "(default: 1, or one of each label)" in page
