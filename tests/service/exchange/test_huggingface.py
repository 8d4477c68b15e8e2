"""The hub's own library talks to a hub in memory; no test reaches the real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml

from models.manifest import Evaluation, Parity, Training
from tests.fake_models.bare_graphs import scale_bytes
from tests.fake_models.classification import LinearClassifier
from tests.service.cli.command import NOBODY, run
from tests.service.exchange.hub import MemoryHub
from tests.service.exchange.test_oci import contents, refused

# The hub's library passes a file to its HTTP library in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def push(models: Path, name: str, address: str, *options: str, **environment: str) -> typer.testing.Result:
    return run("push", name, address, "--repository", models, *options, **environment)


def pull(address: str, folder: Path, *options: str) -> typer.testing.Result:
    return run("pull", address, "--repository", folder, *options)


def test_a_version_comes_back_as_it_was(hub: MemoryHub, models: Path, tmp_path: Path) -> None:
    sent = push(models, "tiny", "hf://ada/tiny")
    assert sent.exit_code == 0, sent.output

    result = pull("hf://ada/tiny", tmp_path / "mine")

    assert result.exit_code == 0, result.output
    assert "ok     tiny 1: image-classification" in result.output
    assert contents(tmp_path / "mine" / "tiny") == contents(models / "tiny")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["tiny"]


def test_a_graph_without_a_manifest_is_called_as_its_repository(hub: MemoryHub, models: Path, tmp_path: Path) -> None:
    push(models, "scale", "hf://ada/Scale.It-twice")

    result = pull("hf://ada/Scale.It-twice", tmp_path / "mine")

    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "mine") == {"scale.it-twice/1/model.onnx": scale_bytes(2.0)}


def test_a_commit_names_exactly_one_version(hub: MemoryHub, models: Path, tmp_path: Path) -> None:
    (first,) = re.findall(r"hf://ada/tiny@[0-9a-f]+", push(models, "tiny", "hf://ada/tiny").output)
    (models / "tiny").rename(models / "other")
    push(models, "scale", "hf://ada/tiny")
    (models / "other").rename(models / "tiny")

    result = pull(first, tmp_path / "mine", "--no-check")

    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "mine" / "tiny") == contents(models / "tiny")


def test_a_revision_is_a_branch(hub: MemoryHub, models: Path, tmp_path: Path) -> None:
    push(models, "tiny", "hf://ada/tiny@next")
    push(models, "tiny", "hf://ada/tiny@next")

    assert "model.onnx" in hub.files("ada/tiny", "next")
    assert "model.onnx" not in hub.files("ada/tiny")
    assert pull("hf://ada/tiny@next", tmp_path / "mine", "--no-check").exit_code == 0
    assert "has no 'last'" in refused("hf://ada/tiny@last", tmp_path / "other")


def test_only_the_files_of_the_version_are_fetched(hub: MemoryHub, models: Path, tmp_path: Path) -> None:
    files = contents(models / "tiny" / "1")
    hub.add("ada/tiny", files | {"pytorch_model.bin": b"large", "README.md": b"# Mine", "onnx/model.onnx": b"other"})

    pull("hf://ada/tiny", tmp_path / "mine", "--no-check")

    assert contents(tmp_path / "mine") == {f"tiny/1/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("is_private", [False, True])
def test_a_new_repository_is_private_by_wish(hub: MemoryHub, models: Path, is_private: bool) -> None:
    push(models, "tiny", "hf://ada/tiny", *(["--private"] if is_private else []))

    assert hub.private == {"ada/tiny": is_private}


# --- what is changed or damaged ---


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("damage", ["changed", "shorter", "longer"])
def test_a_file_that_is_not_what_the_hub_says_is_refused(
    hub: MemoryHub, models: Path, tmp_path: Path, file: str, damage: str
) -> None:
    push(models, "tiny", "hf://ada/tiny")
    content = (models / "tiny" / "1" / file).read_bytes()
    hub.sent_instead[file] = {"changed": content[:-2] + b" \n", "shorter": content[:-1], "longer": content + b"?"}[
        damage
    ]

    said = refused("hf://ada/tiny", tmp_path, "--no-check")

    assert file in said


def test_a_file_that_the_models_own_manifest_does_not_know_is_refused(
    hub: MemoryHub, models: Path, tmp_path: Path
) -> None:
    hub.add("ada/tiny", contents(models / "tiny" / "1") | {"model.onnx": scale_bytes(3.0)})

    assert "model.onnx has the SHA-256" in refused("hf://ada/tiny", tmp_path, "--no-check")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"manifest.json": None, "model.onnx": None}, "neither manifest.json nor model.onnx"),
        ({"manifest.json": b"{}"}, "missing required field"),
        ({"golden.npz": None}, "names ['golden.npz'], which the repository does not hold"),
    ],
)
def test_a_repository_that_holds_no_version_is_refused(
    hub: MemoryHub, models: Path, tmp_path: Path, changes: dict[str, bytes | None], said: str
) -> None:
    files = contents(models / "tiny" / "1") | changes
    hub.add("ada/tiny", {name: content for name, content in files.items() if content is not None})

    assert said in refused("hf://ada/tiny", tmp_path, "--no-check")


# --- the network ---


def test_who_may_not_write_is_told_how_to_log_in(hub: MemoryHub, models: Path) -> None:
    result = push(models, "tiny", "hf://ada/tiny", HF_TOKEN="hf_another")

    assert result.exit_code == 1
    assert "401 from" in result.output
    assert "HF_TOKEN" in result.output


def test_a_repository_that_is_not_there_is_said(hub: MemoryHub, tmp_path: Path) -> None:
    assert "'ada/tiny' is not there, or not for you" in refused("hf://ada/tiny", tmp_path)


def test_nobody_there_is_said(hub: MemoryHub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)

    assert "Connection refused" in push(models, "tiny", "hf://ada/tiny").output
    assert "Connection refused" in refused("hf://ada/tiny", tmp_path)


@pytest.mark.parametrize("address", ["ada", "ada/", "ada/tiny@", "ada/tiny/more", "https://x"])
def test_an_address_that_is_none_is_bad_usage(address: str, models: Path) -> None:
    result = push(models, "tiny", f"hf://{address}")

    assert result.exit_code == 2
    assert "is no address" in result.output


# --- the card ---


def card(hub: MemoryHub) -> tuple[dict[str, Any], str]:
    """The data and the text of the model card."""
    match = re.fullmatch(r"---\n(.*?)\n---\n(.*)", hub.files("ada/tiny")["README.md"].content.decode(), re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1]), match[2]


def test_the_card_says_what_the_manifest_says(hub: MemoryHub, tmp_path: Path, network: LinearClassifier) -> None:
    training = Training(
        script="training.train_tiny",
        config={},
        seed=5,
        dataset_sha256="0" * 64,
        commit="c0ffee",
        seconds=600.0,
        device="cpu",
        parameters=1234,
        libraries={},
    )
    score = Evaluation(metric="accuracy", value=0.875, dataset="digits", split="test", count=1000)
    parity = Parity(max_abs_error=1e-6, batch_sizes=(1,))
    network.write(tmp_path, "tiny", evaluation=(score,), training=training, parity=parity)

    push(tmp_path, "tiny", "hf://ada/tiny", "--license", "mit")

    data, text = card(hub)
    assert data["license"] == "mit"
    assert data["pipeline_tag"] == "image-classification"
    assert data["tags"] == ["onnx", "hotplate", "image-classification"]
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.875}]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert "A linear classifier of the tests." in text
    assert "| accuracy | 0.875 | digits | test | 1,000 |" in text
    assert "1,234 parameters" in text
    assert "hotplate pull hf://ada/tiny" in text


def test_a_card_of_ones_own_is_kept(hub: MemoryHub, models: Path) -> None:
    (models / "scale" / "4" / "README.md").write_text("---\n{}\n---\nMine.\n")

    push(models, "scale", "hf://ada/tiny")

    assert card(hub) == ({}, "Mine.\n")
