from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.manifest import read_manifest
from models.strict import StrictError
from models.versions import Default, add_version, promote, read_default, roll_back
from tests.fake_models.classification import LinearClassifier


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "scale"
    for version in ("1", "2", "3"):
        (folder / version).mkdir(parents=True)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- the default ---


def test_a_model_without_the_file_has_no_default(model: Path) -> None:
    assert read_default(model) is None


def test_each_promotion_is_remembered_and_rolled_back_one_by_one(model: Path) -> None:
    assert promote(model, "2", before="1") == Default("2", ("1",))
    assert promote(model, "3", before="2") == Default("3", ("2", "1"))
    assert (model / "default").read_text() == "3\n2\n1\n"

    assert roll_back(model) == Default("2", ("1",))
    assert roll_back(model) == Default("1")
    with pytest.raises(StrictError, match="version 1 is its first default"):
        roll_back(model)
    assert names(model) == ["1", "2", "3", "default"]  # and no part of a file


def test_promoting_the_default_again_keeps_what_was_before_it(model: Path) -> None:
    promote(model, "2", before="1")

    assert promote(model, "2", before="3") == Default("2", ("1",))


def test_a_model_that_was_never_promoted_cannot_be_rolled_back(model: Path) -> None:
    with pytest.raises(StrictError, match="it has had no other default; there is none to return to"):
        roll_back(model)


def test_what_is_gone_is_not_rolled_back_to(model: Path) -> None:
    promote(model, "2", before="1")
    (model / "1").rmdir()

    with pytest.raises(StrictError, match="version 1, its default before, is gone"):
        roll_back(model)
    assert read_default(model) == Default("2", ("1",))


@pytest.mark.parametrize("text", ["", "\n", "newest", "0\n", "-1", "1.5", "\udcff"])
def test_a_file_that_names_no_version_is_refused(model: Path, text: str) -> None:
    (model / "default").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(StrictError, match="it must be the number of a version"):
        read_default(model)


def test_a_file_written_by_hand_needs_no_more_than_a_number(model: Path) -> None:
    (model / "default").write_bytes(b" 2 \r\n")

    assert read_default(model) == Default("2")


# --- new versions ---


def test_a_version_folder_is_copied_and_its_manifest_says_so(tmp_path: Path) -> None:
    source = LinearClassifier().write(tmp_path, "tiny")
    (source / ".hidden").write_text("left behind")

    assert add_version(tmp_path / "tiny", source) == "2"
    assert add_version(tmp_path / "other", source) == "1"

    assert read_manifest(tmp_path / "tiny" / "2").version == "2"
    assert read_manifest(tmp_path / "other" / "1").name == "other"
    assert names(tmp_path / "tiny" / "2") == sorted(set(names(source)) - {".hidden"})
    assert names(tmp_path / "tiny") == ["1", "2"]
    assert (tmp_path / "tiny" / "2").stat().st_mode == source.stat().st_mode


def test_an_onnx_file_is_placed_with_the_weights_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    for name in (file.name, "network.onnx.data", "network.onnx_data", "network.onnxes", "other.onnx.data"):
        (tmp_path / name).write_text(name)

    assert add_version(tmp_path / "repository" / "net", file) == "1"

    placed = tmp_path / "repository" / "net" / "1"
    assert names(placed) == ["model.onnx", "network.onnx.data", "network.onnx_data"]
    assert (placed / "model.onnx").read_text() == "network.onnx"


def test_a_new_version_follows_the_highest_number_in_the_folder(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_text("graph")
    (model / "009").mkdir()

    assert add_version(model, file) == "10"


def test_a_graph_without_a_version_folder_becomes_version_1(tmp_path: Path) -> None:
    model = tmp_path / "bare"
    model.mkdir()
    for name in ("model.onnx", "model.onnx.data", "labels.txt", "config.toml"):
        (model / name).write_text(name)
    (tmp_path / "new.onnx").write_text("new")

    assert add_version(model, tmp_path / "new.onnx") == "2"

    assert names(model) == ["1", "2", "config.toml"]
    assert names(model / "1") == ["labels.txt", "model.onnx", "model.onnx.data"]
    assert (model / "2" / "model.onnx").read_text() == "new"


def test_versions_made_at_the_same_time_get_numbers_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_text("graph")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: add_version(tmp_path / "net", file), range(40)))

    assert sorted(map(int, made)) == list(range(1, 41))
    assert names(tmp_path / "net") == sorted(made)


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        add_version(tmp_path / "net", tmp_path / "absent.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StrictError, match="is no version folder"):
        add_version(tmp_path / "net", tmp_path / "empty")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(StrictError):
        add_version(tmp_path / "net", broken)

    assert names(tmp_path) == ["broken", "empty"]
