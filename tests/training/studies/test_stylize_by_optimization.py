"""The command that optimises one picture: it writes what it says, and refuses in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.small_stylizers import photographs, write_pictures, write_vgg
from training.studies.stylize_by_optimization import main


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    picture = photographs()[1]
    folder = write_pictures(tmp_path / "in", {"photo": picture, "painting": np.flipud(picture).copy()})
    vgg = write_vgg(tmp_path / "vgg.npz")
    return [str(folder / "photo.png"), "--style", str(folder / "painting.png"), "--vgg", str(vgg), "--threads", "1"]


def test_a_picture_and_its_snapshots_are_written_at_the_size_asked_for(files: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    settings = ["--steps", "5", "--every", "2", "--size", "44", "--style-size", "32", "--optimizer", "adam"]

    assert main([*files, "-o", str(output), *settings]) == 0

    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["out.png", "out_0002.png", "out_0004.png"]
    with Image.open(output) as image, Image.open(tmp_path / "out_0002.png") as earlier:
        assert max(image.size) == 44
        assert min(image.size) >= 32
        assert not np.array_equal(np.asarray(image), np.asarray(earlier))


def test_noise_and_lbfgs_give_another_picture(files: list[str], tmp_path: Path) -> None:
    results = []
    for start in ("content", "noise"):
        output = tmp_path / f"{start}.png"
        assert main([*files, "-o", str(output), "--steps", "3", "--style-size", "32", "--start", start]) == 0
        results.append(np.asarray(Image.open(output)))
    assert not np.array_equal(results[0], results[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--steps", "0"], "error: --steps is 0; it must be at least 1."),
        (["--size", "8"], "error: --size is 8; it must be at least 32."),
        (["--rate", "0"], "error: --rate and --style-weight must be positive"),
        (["-o", "out.txt"], "error: --output is 'out.txt'; it must end in one of .jpg"),
        (["-o", "nowhere/out.png"], "error: --output is 'nowhere/out.png'; the folder nowhere does not exist."),
        (["--style", "absent.jpg"], "error: 'absent.jpg' cannot be read as a picture"),
        (["--vgg", "absent.npz"], "error: 'absent.npz' does not hold VGG16"),
        (["--steps", "9", "--rate", "1e30"], "error: the loss is "),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    files: list[str], tmp_path: Path, settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "-o", str(tmp_path / "out.png"), "--style-size", "32", *settings]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not (tmp_path / "out.png").exists()


def test_a_photograph_that_is_too_small_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (200, 20)).save(files[0])
    assert main([*files, "-o", str(tmp_path / "out.png")]) == 2
    assert "is 200x20 pixels at --size 512; each side must be 32 or more." in capsys.readouterr().err


def test_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "5 for adam, 1 for lbfgs" in text
    assert "(default: lbfgs)" in text
