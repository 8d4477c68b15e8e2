from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from models.importing.sources import ImportRefused, kind_of, new_version
from models.versions import next_version


def test_the_kind_of_a_source_is_seen_from_its_name_and_its_content(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    with zipfile.ZipFile(tmp_path / "network.pt2", "w") as archive:
        archive.writestr("archive_format", "pt2")

    assert kind_of(str(tmp_path / "model.onnx")) == "onnx"
    assert kind_of(str(tmp_path / "network.pt2")) == "program"
    assert kind_of(str(tmp_path)) == "folder"
    assert kind_of("owner/some-model") == kind_of("hf://owner/some-model") == "repository"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("network.pt2", b"no archive", "torch.export.save"),
        ("network.pt", b"PK", "torch.onnx.export"),
        ("network.pth", b"\x80\x02", "torch.onnx.export"),
        ("model.h5", b"\x89HDF", "tf2onnx"),
        ("model.pkl", b"\x80", "skl2onnx"),
        ("model.safetensors", b"\x00", "config.json"),
        ("notes.md", b"#", "export it to ONNX"),
    ],
)
def test_a_file_that_is_no_network_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ImportRefused, match=reason):
        kind_of(str(tmp_path / name))


@pytest.mark.parametrize("source", ["nothing.onnx", "folder/nothing.onnx", "a/b/c", "", "owner/../model"])
def test_what_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(ImportRefused, match="neither a file, a folder, nor the id"):
        kind_of(source or "nothing")


def test_a_version_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_version(tmp_path, "flowers", "1") as folder:
        (folder / "model.onnx").write_bytes(b"graph")
        assert (folder.parent.name, folder.name) == ("flowers", "1")
        assert [each.name for each in tmp_path.iterdir() if not each.name.startswith(".")] == []
    with pytest.raises(ZeroDivisionError), new_version(tmp_path, "flowers", "2"):
        raise ZeroDivisionError

    assert [each.relative_to(tmp_path).as_posix() for each in sorted(tmp_path.rglob("*"))] == [
        *("flowers", "flowers/1", "flowers/1/model.onnx")
    ]
    assert next_version(tmp_path / "flowers") == "2"
    assert next_version(tmp_path / "cars") == "1"


@pytest.mark.parametrize(("name", "version"), [("../cars", "1"), ("cars", "0"), ("cars", "v2")])
def test_a_name_that_the_service_would_not_take_is_refused(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(ImportRefused, match="it must match"), new_version(tmp_path, name, version):
        raise AssertionError


def test_a_version_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "cars" / "1").mkdir(parents=True)

    with pytest.raises(ImportRefused, match="there already"), new_version(tmp_path, "cars", "1"):
        raise AssertionError
