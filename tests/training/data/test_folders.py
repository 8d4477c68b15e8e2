"""Images of one's own: layouts, what is skipped and said, the split, sizes and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.folders import Reading, near_duplicates, read_own_images
from training.data.formats import DataError


def picture(path: Path, shade: int, *, size: tuple[int, int] = (40, 32), color: bool = True) -> None:
    """Write noise around a shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.as_posix().encode())
    shape = (size[1], size[0], 3) if color else (size[1], size[0])
    levels = np.random.default_rng(seed).integers(0, 90, shape) + shade
    Image.fromarray(levels.astype(np.uint8)).save(path)


def classes(folder: Path, *names: str, count: int = 10, color: bool = True) -> Path:
    for shade, name in enumerate(names):
        for number in range(count):
            picture(folder / name / f"{number}.png", 150 * shade // max(len(names) - 1, 1), color=color)
    return folder


def test_plain_class_folders_are_split_by_the_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = classes(tmp_path / "fruit", "apple", "pear")
    dataset = read_own_images(folder, Reading(test_share=0.3))

    assert (dataset.name, dataset.labels) == ("fruit", ("apple", "pear"))
    assert np.bincount(dataset.test_labels).tolist() == [3, 3]
    assert np.bincount(dataset.train_labels).tolist() == [7, 7]
    assert "30% of each class are, drawn by seed 0" in capsys.readouterr().out
    assert read_own_images(folder, Reading(test_share=0.3)).sha256() == dataset.sha256()
    assert read_own_images(folder, Reading(test_share=0.3, seed=1)).sha256() != dataset.sha256()


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_folders_of_parts_are_kept_apart(tmp_path: Path, test: str) -> None:
    classes(tmp_path / "train", "a", "b", count=4)
    classes(tmp_path / test, "a", "b", count=2)
    dataset = read_own_images(tmp_path, Reading())

    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 4)


def test_validation_images_beside_test_images_are_trained_on(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("validation", 3), ("test", 2)):
        classes(tmp_path / part, "a", "b", count=count)
    dataset = read_own_images(tmp_path, Reading())

    assert (len(dataset.train_labels), len(dataset.test_labels)) == (14, 4)


def test_images_without_classes_have_one_label(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / f"{number}.jpg", 10 * number)
    dataset = read_own_images(tmp_path, Reading())

    assert dataset.labels == ("image",)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)


@pytest.mark.parametrize("heading", ["", "path,label\n", "Image,x,Class\n"])
def test_a_table_lists_paths_and_labels(tmp_path: Path, heading: str) -> None:
    classes(tmp_path / "files", "a", "b", count=5)
    middle = "9," if "x" in heading else ""
    rows = [f"files/{label}/{number}.png,{middle}{label.upper()}" for label in "ab" for number in range(5)]
    table = tmp_path / "list.csv"
    table.write_text(heading + "\n".join(rows) + "\n")
    dataset = read_own_images(table, Reading())

    assert (dataset.name, dataset.labels) == ("list", ("A", "B"))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)


def test_a_table_may_say_the_split(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b", count=3)
    table = tmp_path / "list.csv"
    rows = [f"{label}/{n}.png,{label},{'test' if n == 2 else 'train'}" for label in "ab" for n in range(3)]
    table.write_text("file,label,split\n" + "\n".join(rows))
    dataset = read_own_images(table, Reading())

    assert (len(dataset.train_labels), len(dataset.test_labels)) == (4, 2)
    table.write_text("file,label,split\na/0.png,a,exam\n")
    with pytest.raises(DataError, match=r"row 1 of .* is of the split 'exam'; valid are"):
        read_own_images(table, Reading())


def test_what_cannot_be_read_is_named_and_left_out_up_to_a_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes(tmp_path, "a", "b")
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "b" / "cut.png").write_bytes((tmp_path / "b" / "0.png").read_bytes()[:200])
    dataset = read_own_images(tmp_path, Reading(max_unreadable=0.1))

    said = capsys.readouterr().out
    assert len(dataset.train_labels) + len(dataset.test_labels) == 20
    assert "2 of 22 images cannot be read" in said
    assert "broken.jpg" in said
    assert "cut.png" in said
    with pytest.raises(DataError, match=r"(?s)broken.jpg.*At most 5.0% may be left out"):
        read_own_images(tmp_path, Reading())


def test_empty_classes_and_classes_without_test_images_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes(tmp_path, "a", "b")
    (tmp_path / "nothing").mkdir()
    picture(tmp_path / "single" / "0.png", 0)
    dataset = read_own_images(tmp_path, Reading())

    said = capsys.readouterr().out
    assert dataset.labels == ("a", "b", "single")
    assert "left out: the classes 'nothing'" in said
    assert "no test images of 'single'" in said


def test_nearly_the_same_images_in_both_parts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", 0), ("train", 1), ("test", 2)):
        blocks = rng.integers(0, 256, (5, 5, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks).save(tmp_path / part / "a" / f"{number}.png")
    copied = Image.open(tmp_path / "train" / "a" / "1.png")
    copied.save(tmp_path / "test" / "a" / "copy.jpg", quality=95)
    dataset = read_own_images(tmp_path, Reading(image_size=32))

    assert near_duplicates(dataset.train_images, dataset.test_images) == [(1, 1)]
    said = capsys.readouterr().out
    assert "1 of 2 test images are nearly the same as one to train on" in said
    assert "test/a/copy.jpg ~ train/a/1.png" in said


def test_sizes_are_those_of_the_images_where_they_are_alike_and_grey_stays_grey(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / "square" / "a" / f"{number}.png", 100, size=(48, 48), color=False)
        picture(tmp_path / "mixed" / "a" / f"{number}.png", 100, size=(40 + number, 90))
    assert read_own_images(tmp_path / "square", Reading()).train_images.shape[1:] == (48, 48, 1)
    assert read_own_images(tmp_path / "mixed", Reading()).train_images.shape[1:] == (64, 64, 3)
    asked = Reading(image_size=28, channels="grey", light_on_dark=True)
    dataset = read_own_images(tmp_path / "mixed", asked)
    assert dataset.train_images.shape[1:] == (28, 28, 1)
    assert dataset.light_on_dark
    assert not read_own_images(tmp_path / "square", Reading()).light_on_dark


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ({"image_size": 20}, "image_size is 20; it must be from 28 to 224"),
        ({"test_share": 1.0}, "test_share is 1.0"),
        ({"max_unreadable": -0.5}, "max_unreadable -0.5"),
    ],
)
def test_senseless_readings_are_refused(reading: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Reading(**reading)  # type: ignore[arg-type]


def test_what_holds_no_images_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images; valid are"):
        read_own_images(tmp_path, Reading())
    with pytest.raises(DataError, match="is neither a folder nor a file"):
        read_own_images(tmp_path / "nowhere", Reading())
    picture(tmp_path / "one.png", 0)
    with pytest.raises(DataError, match="has 1 images; training and test each need at least one"):
        read_own_images(tmp_path, Reading())


def test_a_few_images_are_of_every_class(tmp_path: Path) -> None:
    few = read_own_images(classes(tmp_path, "a", "b", "c"), Reading()).few(4)
    assert sorted(few.train_labels.tolist()) == [0, 0, 1, 2]
    assert few.labels == ("a", "b", "c")
