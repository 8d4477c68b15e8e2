from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.manifest import read_manifest
from service.exchange.version import find_version, named_files
from service.settings import SHIPPED_REPOSITORY
from tests.service.cli.command import run
from tests.test_architecture import imports, is_within, modules


@pytest.mark.parametrize("folder", sorted(SHIPPED_REPOSITORY.glob("*/*")), ids=lambda folder: str(folder.parent.name))
def test_a_manifest_names_every_file_of_its_version(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == list(named_files(read_manifest(folder)))


def test_without_a_number_the_newest_version_is_sent(models: Path) -> None:
    (models / "scale" / "11").mkdir()
    (models / "scale" / "11" / "model.onnx").write_bytes(b"newer")

    assert find_version([models], "scale").version == "11"
    assert find_version([models], "scale@4").version == "4"


def test_what_is_not_there_is_said(models: Path) -> None:
    assert "it has 4" in run("push", "scale@5", "oci://127.0.0.1:9/x", "--repository", models).output
    assert "['scale', 'tiny']" in run("push", "large", "oci://127.0.0.1:9/x", "--repository", models).output


@pytest.mark.parametrize("name", ["../up", "a/b", "@", "tiny@", "tiny@0", "tiny@../1"])
def test_a_name_that_is_no_folder_is_bad_usage(name: str, tmp_path: Path) -> None:
    result = run("pull", "oci://127.0.0.1:9/x", "--repository", tmp_path / "mine", "--name", name)

    assert result.exit_code == 2
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("address", ["tiny", "https://example.com/tiny", "docker://x/y"])
def test_an_address_of_another_kind_is_bad_usage(address: str, models: Path, tmp_path: Path) -> None:
    for command in (("push", "tiny", address), ("pull", address)):
        result = run(*command, "--repository", models)

        assert result.exit_code == 2
        assert "oci://host/path:tag or hf://organisation/name" in result.output


@pytest.mark.parametrize(("library", "address"), [("oras", "oci://127.0.0.1:9/x"), ("huggingface_hub", "hf://a/b")])
def test_without_the_library_the_extra_is_named(
    library: str, address: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("service.exchange.oci", "service.exchange.huggingface")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)

    result = run("push", "tiny", address, "--repository", models)

    assert result.exit_code == 1
    assert f"{library} is not installed. Install Hotplate with an extra: hotplate[import]." in result.output


def test_serving_knows_nothing_of_it() -> None:
    serving = [file for file in modules("service") if not {"cli", "exchange"} & {*file.parts}]
    forbidden = {"service.exchange", "oras", "huggingface_hub", "requests"}
    code = "import sys, service.cli.main; print({'oras', 'huggingface_hub', 'requests'} & {*sys.modules})"

    assert [(file, name) for file in serving for name in imports(file) if is_within(name, forbidden)] == []
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
