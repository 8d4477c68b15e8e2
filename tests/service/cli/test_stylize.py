"""`hotplate stylize` against the real service, and where it puts what it gets."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import typer.testing
from PIL import Image

from service.cli.client import BadUsage
from service.cli.stylize import Job, plan_jobs, style_parameters
from tests.fake_models.style_transfer import STYLES, TinyStylizer
from tests.servers import RunningService
from tests.service.cli.command import NOBODY, run, stranger
from tests.service.tasks.style_transfer.stylized import PATH, assert_alike, encoded, painted

WAVES = {"style": "waves"}


def stylize(service: RunningService, *arguments: object) -> typer.testing.Result:
    return run("stylize", *arguments, HOTPLATE_URL=f"{service.url}/")


@pytest.fixture
def photo(tmp_path: Path, stylizer: TinyStylizer) -> Path:
    """A file of one picture."""
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(stylizer.images(1, 150, 200)[0]))
    return path


@pytest.fixture
def folder(tmp_path: Path, stylizer: TinyStylizer) -> Path:
    """A folder of three pictures and a note."""
    path = tmp_path / "photos"
    path.mkdir()
    for index, name in enumerate(("a.png", "b.PNG", "c.png")):
        (path / name).write_bytes(encoded(stylizer.images(1, 40 + index, 50, index)[0]))
    (path / "note.txt").write_text("not a picture")
    return path


def opened(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_result_is_written_beside_the_photograph(
    style_transfer_service: RunningService, stylizer: TinyStylizer, photo: Path
) -> None:
    result = stylize(style_transfer_service, photo, "--style", "waves")

    target = photo.with_name("photo.waves.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{target}\n"
    assert_alike(opened(target), painted(stylizer, opened(photo), stylizer.pure("waves")))


def test_options_reach_the_service(style_transfer_service: RunningService, stylizer: TinyStylizer, photo: Path) -> None:
    target = photo.with_name("out.webp")
    options = ("--blend", "waves:1,night:3", "--strength", "0.5", "--preserve-color", "--quality", "100")

    result = stylize(style_transfer_service, photo, *options, "-o", target, "-m", "tiny-stylizer@1")

    assert result.exit_code == 0, result.output
    query = "styles=waves:1,night:3&strength=0.5&preserve_color=true&quality=100&format=webp"
    wanted = httpx.post(f"{style_transfer_service.url}{PATH}?{query}", content=photo.read_bytes(), timeout=30)
    assert wanted.headers["content-type"] == "image/webp"
    assert target.read_bytes() == wanted.content


def test_a_folder_goes_to_a_folder(
    style_transfer_service: RunningService, stylizer: TinyStylizer, folder: Path
) -> None:
    result = stylize(style_transfer_service, folder, "--style", "night")

    assert result.exit_code == 0, result.output
    target = folder.with_name("photos.night")
    assert sorted(file.name for file in target.iterdir()) == ["a.png", "b.PNG", "c.png"]
    for name in ("a.png", "b.PNG", "c.png"):
        assert_alike(opened(target / name), painted(stylizer, opened(folder / name), stylizer.pure("night")))


def test_a_photograph_that_fails_does_not_stop_the_others(style_transfer_service: RunningService, folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no picture")

    result = stylize(style_transfer_service, folder, "--style", "waves", "-o", folder.with_name("new"))

    assert result.exit_code == 1
    assert "bad.jpg: 415" in result.stderr
    assert "send a PNG, JPEG or WebP file" in result.stderr
    assert sorted(file.name for file in folder.with_name("new").iterdir()) == ["a.png", "b.PNG", "c.png"]
    assert result.stdout.count("\n") == 3


def test_styles_are_listed(style_transfer_service: RunningService) -> None:
    result = stylize(style_transfer_service, "--list-styles")

    assert result.exit_code == 0, result.output
    assert result.stdout.split() == list(STYLES)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--style", "cubism"), "There is no style 'cubism'; known are waves, fields, night."),
        (("--style", "waves", "--strength", "2"), "strength is 2.0; it must be a number from 0 to 1."),
        (("--style", "waves", "-m", "tiny"), "'tiny' does image-classification"),
        (("--style", "waves", "-m", "none"), "There is no model 'none'"),
    ],
)
def test_the_services_errors_reach_the_user(
    style_transfer_service: RunningService, photo: Path, options: tuple[str, ...], told: str
) -> None:
    result = stylize(style_transfer_service, photo, *options)

    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stdout == ""
    assert [file.name for file in photo.parent.iterdir()] == ["photo.png"]


def test_without_a_service_the_rest_is_not_tried(folder: Path) -> None:
    result = run("stylize", folder, "--style", "waves", "--url", NOBODY, "-m", "painter")

    assert result.exit_code == 1
    assert result.stderr.count("No service answers") == 1


def test_another_kind_of_server_is_recognised(photo: Path) -> None:
    with stranger() as url:
        result = run("stylize", photo, "--style", "waves", "-m", "m", "--url", url)

    assert result.exit_code == 1
    assert "not Hotplate's" in result.stderr
    assert [file.name for file in photo.parent.iterdir()] == ["photo.png"]


def test_a_given_photograph_is_never_overwritten(photo: Path, folder: Path) -> None:
    cases = [
        ((photo, "-o", photo), "is not overwritten"),
        ((folder, "-o", folder), "is not overwritten"),
        ((photo, folder / "a.png", "-o", f"{folder}"), "is not overwritten"),
        ((folder, folder / "a.png", "-o", f"{folder}-new"), "would both go to"),
        ((photo, "-o", "out.gif"), "must end with .jpg or .jpeg or .png or .webp"),
        ((photo, "-o", "out.png", "--format", "jpeg"), "must end with .jpg or .jpeg"),
        ((photo, "--format", "gif"), "The format is 'gif'; it must be jpeg, png, webp"),
        ((folder.parent / "photos" / "note.txt",), "must end with"),
        ((), "No photograph is given"),
    ]
    before = photo.read_bytes()
    for arguments, told in cases:
        result = run("stylize", *arguments, "--style", "waves", "--url", NOBODY)
        assert result.exit_code == 2
        assert told in result.stderr
    assert photo.read_bytes() == before


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="holds no photograph"):
        plan_jobs([tmp_path], "", "", WAVES)


def test_targets_follow_the_format_and_the_blend(tmp_path: Path) -> None:
    photo = tmp_path / "a.b.JPG"

    def target(output: str, kind: str, parameters: dict[str, str]) -> Path:
        (job,) = plan_jobs([photo], output, kind, parameters)
        return job.target

    assert target("", "", WAVES) == tmp_path / "a.b.waves.JPG"
    assert target("", "webp", {"styles": "waves:0.5, night:1"}) == tmp_path / "a.b.waves-night.webp"
    assert target("", "", {"style": "../../x"}) == tmp_path / "a.b.x.JPG"
    assert target(f"{tmp_path}/new/", "", WAVES) == tmp_path / "new" / "a.b.JPG"
    assert target(f"{tmp_path}/out.jpeg", "jpeg", WAVES) == tmp_path / "out.jpeg"
    assert Job(photo, photo).format == "jpeg"


def test_styles_become_parameters() -> None:
    assert style_parameters(["waves"], "") == WAVES
    assert style_parameters(["waves", "night"], "") == {"styles": "waves:1,night:1"}
    assert style_parameters(["waves:0.3", "night"], "") == {"styles": "waves:0.3,night:1"}
    assert style_parameters([], "waves:1,night:2") == {"styles": "waves:1,night:2"}
    for styles, blend in (([], ""), (["waves"], "night:1")):
        with pytest.raises(BadUsage, match="--list-styles"):
            style_parameters(styles, blend)
