"""What is taken of a Hugging Face folder or repository, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.importing.huggingface import find_files
from models.importing.sources import ImportRefused, kind_of
from models.manifest import Source
from tests.models.importing.hub import COMMIT, Hub
from tests.models.importing.llama_folders import write_llama

_FIND = """
import sys
from models.importing.huggingface import find_files
from models.importing.sources import ImportRefused
try:
    print(find_files(*sys.argv[1:]))
except ImportRefused as error:
    print("refused:", error)
"""
CARD = "---\nlanguage: en\nlicense: mit  # of the weights\n---\n# Tiny\n"


def exported(folder: Path, *graphs: str, model_type: str = "vit") -> Path:
    for name in graphs:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize(
    ("graphs", "file", "chosen"),
    [
        (["model.onnx"], "", "model.onnx"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], "", "onnx/model.onnx"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], "onnx/model_quantized.onnx", "onnx/model_quantized.onnx"),
        (["resnet.onnx"], "", "resnet.onnx"),
    ],
)
def test_the_graph_of_a_folder_is_where_it_usually_is_or_as_asked(
    graphs: list[str], file: str, chosen: str, tmp_path: Path
) -> None:
    assert find_files(str(exported(tmp_path, *graphs)), file).file == tmp_path / chosen


def test_weights_of_a_language_model_come_before_exports_of_it(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf")
    exported(folder, "onnx/model.onnx", model_type="llama")

    assert find_files(str(folder)).file is None
    assert find_files(str(folder), "onnx/model.onnx").file == folder / "onnx/model.onnx"


@pytest.mark.parametrize(
    ("graphs", "file", "words"),
    [
        (["encoder.onnx", "decoder.onnx"], "", "2 ONNX files; name one with --file: decoder.onnx, encoder.onnx"),
        (["model.onnx"], "other.onnx", r"no 'other.onnx'; its ONNX and GGUF files are \['model.onnx'\]"),
        ([], "", "no ONNX or GGUF file, and its model type is 'vit'. .*optimum-cli export onnx"),
    ],
)
def test_what_must_be_chosen_or_is_not_there_is_said(graphs: list[str], file: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=words):
        find_files(str(exported(tmp_path, *graphs)), file)


def test_the_licence_is_the_model_cards(tmp_path: Path) -> None:
    (exported(tmp_path / "tiny", "model.onnx") / "README.md").write_text(CARD)

    assert find_files(str(tmp_path / "tiny")).source == Source(origin="tiny", license="mit")


@pytest.mark.parametrize("source", ["owner/name", "owner/name@main", "owner/name@refs/pr/1", "hf://owner/name@v1.0"])
def test_a_repository_may_name_its_revision(source: str) -> None:
    assert kind_of(source) == "repository"


# Against a hub on this machine.


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    folder = write_llama(tmp_path / "tiny")
    (folder / "README.md").write_text(CARD)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"large")
    return Hub("owner/tiny", folder)


def find(hub: Hub, *arguments: str, cache: Path, **environment: str) -> str:
    variables = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", _FIND, *arguments]
    ran = subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=True)
    return ran.stdout


def test_a_repository_is_downloaded_without_its_pickles_and_found_again_offline(hub: Hub, tmp_path: Path) -> None:
    with hub.serving():
        found = find(hub, "owner/tiny@main", cache=tmp_path / "cache")

    assert sorted(hub.asked) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert f"file=None, source=Source(origin='owner/tiny', commit='{COMMIT}', license='mit'" in found
    # Nobody listens there any more.
    assert find(hub, "owner/tiny", cache=tmp_path / "cache") == found


def test_of_an_exported_repository_one_graph_is_downloaded_with_its_weights(tmp_path: Path) -> None:
    graphs = ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_fp16.onnx"]
    hub = Hub("owner/vit", exported(tmp_path / "vit", *graphs))

    with hub.serving():
        found = find(hub, "owner/vit", cache=tmp_path / "cache")

    assert sorted(hub.asked) == ["config.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    assert "onnx/model.onnx')" in found


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("owner/tiny@nope", "refused: 'owner/tiny' has no branch, tag or commit 'nope'"),
        ("owner/other", "refused: There is no repository 'owner/other', or it is private"),
    ],
)
def test_what_the_hub_does_not_have_is_said(source: str, words: str, hub: Hub, tmp_path: Path) -> None:
    with hub.serving():
        assert words in find(hub, source, cache=tmp_path / "cache")


def test_a_gated_repository_is_said_to_be_one(hub: Hub, tmp_path: Path) -> None:
    hub.is_gated = True

    with hub.serving():
        assert "refused: 'owner/tiny' is gated" in find(hub, "owner/tiny", cache=tmp_path / "cache")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_is_said_how_to_bring_the_files(offline: str, hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"

    found = find(hub, "owner/tiny", cache=tmp_path / "cache", HF_HUB_OFFLINE=offline)

    assert "hub cannot be reached, and it is not in the cache" in found
    assert "hf download owner/tiny --local-dir FOLDER" in found
