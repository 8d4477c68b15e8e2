"""Nothing in a repository is passed over silently: an entry is a model, or it is named with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.engine.repository.repository import find_models, fingerprint_of, identity_of, scan
from service.errors import StartupError


def write(repository: Path, *files: str) -> None:
    for file in files:
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).write_bytes(b"\x08\x0a")


def served(repository: Path) -> dict[str, list[str]]:
    return {
        name: [identity_of(folder)[1] for folder in model.versions] for name, model in scan([repository]).models.items()
    }


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        (["ResNet50/1/model.onnx"], {"ResNet50": ["1"]}),
        (["relu/1/x", "RELU/1/x", "ReLU/2/x"], {"relu": ["1"], "RELU": ["1"], "ReLU": ["2"]}),
        (["a.B-c_9/1/x"], {"a.B-c_9": ["1"]}),
        (["m/1/x", "m/10/x", "m/9/x"], {"m": ["10", "9", "1"]}),
        (["m/20240131235959/x"], {"m": ["20240131235959"]}),
        (["bare/model.onnx", "bare/config.toml", "bare/weights/w.bin"], {"bare": ["1"]}),
        (["bare/model.ort"], {"bare": ["1"]}),
        (["1/1/model.onnx"], {"1": ["1"]}),
    ],
)
def test_these_entries_are_models(tmp_path: Path, files: list[str], versions: dict[str, list[str]]) -> None:
    write(tmp_path, *files)

    assert served(tmp_path) == versions
    assert scan([tmp_path]).faults == ()


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        ".hidden/1/model.onnx",
        ".model.onnx",
        "m/.1/model.onnx",
        "m/notes.txt",
        "m/assets/logo.png",
        "lost+found/x",
        "__MACOSX/m/1/x",
    ],
)
def test_these_entries_are_nobodys_model(tmp_path: Path, file: str) -> None:
    write(tmp_path, "m/1/model.onnx", file)

    assert served(tmp_path) == {"m": ["1"]}
    assert scan([tmp_path]).faults == ()


@pytest.mark.parametrize(
    ("files", "model", "version", "advice"),
    [
        (["My Model (1)/1/model.onnx"], "My Model (1)", "", "for example to 'My-Model-1'"),
        (["modèle/1/model.onnx"], "modèle", "", "for example to 'modele'"),
        (["_net/1/model.onnx"], "_net", "", "for example to 'net'"),
        ([f"{'n' * 65}/1/model.onnx"], "n" * 65, "", "1 to 64 letters"),
        (["net@2/1/model.onnx"], "net@2", "", "for example to 'net-2'"),
        (["模型/model.onnx"], "模型", "", "for example to 'my-model'"),
        (["net/01/model.onnx"], "net", "01", "rename the folder '01', for example to '1'"),
        (["net/0/model.onnx"], "net", "0", "for example to '1'"),
        (["net/v1/model.onnx"], "net", "v1", "for example to '1'"),
        (["net/latest/model.onnx"], "net", "latest", "for example to '1'"),
        (["net/1.0/model.onnx"], "net", "1.0", "for example to '1'"),
        (["net/production/manifest.json"], "net", "production", "for example to '1'"),
        (["net/1234567890123456789/x"], "net", "1234567890123456789", "at most 18 digits"),
        (["net/resnet.onnx"], "net", "", "there is no model.onnx, but 'resnet.onnx': rename it to model.onnx"),
        (["net/resnet.ort"], "net", "", "rename it to model.ort"),
        (["net/weights.pt", "net/a.txt"], "net", "", "it holds 'a.txt', 'weights.pt': export the network to ONNX"),
        (["net/.keep"], "net", "", "it is empty"),
        (["net/saved_model.pb", "net/variables/v"], "net", "", "a SavedModel of TensorFlow"),
        (["org/net/1/model.onnx"], "org", "", "it holds 'net'"),
        (["org/onnx/decoder.onnx"], "org", "", "'onnx/decoder.onnx' further down"),
        (["net/manifest.json", "net/model.onnx"], "net", "", "move the files into 'net/1'"),
        (["resnet.onnx"], "resnet.onnx", "", "move it to resnet/1/model.onnx"),
        (["model.ort"], "model.ort", "", "move it to model/1/model.ort"),
        (["1/model.onnx"], "1", "", "a repository is the folder of the models' folders"),
    ],
)
def test_these_entries_are_named_with_what_to_do(
    tmp_path: Path, files: list[str], model: str, version: str, advice: str
) -> None:
    write(tmp_path, *files)

    found = scan([tmp_path])

    assert found.models == {}
    (fault,) = found.faults
    assert (fault.model, fault.version) == (model, version)
    assert advice in fault.reason


def test_beside_sound_versions_the_others_are_named_with_a_free_number(tmp_path: Path) -> None:
    write(tmp_path, "net/1/model.onnx", "net/4/model.onnx", "net/v2/model.onnx", "net/model.onnx", "net/old.onnx")

    found = scan([tmp_path])

    assert served(tmp_path) == {"net": ["4", "1"]}
    misnamed, *loose = found.faults
    assert misnamed.version == "v2"
    assert "for example to '5'" in misnamed.reason
    assert [fault.reason.partition(":")[0] for fault in loose] == ["model.onnx", "old.onnx"]
    assert all("move it to '6/model.onnx', or remove it" in fault.reason for fault in loose)


def test_a_bare_model_beside_a_misnamed_version_is_served_and_the_other_is_named(tmp_path: Path) -> None:
    write(tmp_path, "net/model.onnx", "net/v2/model.onnx")

    assert served(tmp_path) == {"net": ["1"]}
    assert [fault.version for fault in scan([tmp_path]).faults] == ["v2"]


def test_links_that_lead_nowhere_are_named_and_others_are_followed(tmp_path: Path) -> None:
    repository, store = tmp_path / "repository", tmp_path / "store"
    write(store, "net/1/model.onnx")
    write(repository, "part/2/model.onnx", "bare/x")
    (repository / "net").symlink_to(store / "net")
    (repository / "gone").symlink_to(store / "gone")
    (repository / "loop").symlink_to(repository / "loop")
    (repository / "part" / "1").symlink_to(store / "gone")
    (repository / "bare" / "model.onnx").symlink_to(store / "gone")

    assert served(repository) == {"net": ["1"], "part": ["2"]}
    assert [(fault.model, fault.version) for fault in scan([repository]).faults] == [
        ("bare", ""),
        ("gone", ""),
        ("loop", ""),
        ("part", "1"),
    ]
    assert all("is a link to" in fault.reason for fault in scan([repository]).faults)


def test_a_name_that_is_no_unicode_is_named_in_unicode(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/n\xe9t/1")

    (fault,) = scan([tmp_path]).faults

    fault.model.encode("utf-8")
    assert "for example to 'nt'" in fault.reason


def test_a_model_that_is_asked_for_by_name_and_cannot_be_served_is_refused_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, "good/1/model.onnx", "net/v1/model.onnx")

    with pytest.raises(StartupError, match=r"\['net'\] are not in .*; there are \['good'\]\. net@v1: a version is"):
        find_models([tmp_path], ("net",))


def test_the_fingerprint_of_a_version_changes_with_its_files(tmp_path: Path) -> None:
    write(tmp_path, "model.onnx", "parts/w.bin")
    before = fingerprint_of(tmp_path)
    assert fingerprint_of(tmp_path) == before

    (tmp_path / "parts" / "w.bin").write_bytes(b"other")

    assert fingerprint_of(tmp_path) != before
