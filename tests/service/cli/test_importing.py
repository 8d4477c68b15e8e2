from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import helper
from PIL import Image
from typer.main import get_command

from models.golden import read_golden
from models.manifest import read_manifest
from service.cli.main import app
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, one_node, scale_bytes
from tests.fake_models.scorers import LABELS, Scorer
from tests.models.samples import DATA, sample
from tests.servers import RunningService
from tests.service.cli.command import run


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A network of photographs without any preprocessing, and its labels beside it."""
    path = Scorer(shape=("batch", 3, 96, 96)).write(tmp_path / "flowers" / "model.onnx")
    path.with_name("labels.txt").write_text("\n".join(LABELS) + "\n")
    return path


def test_a_network_with_labels_becomes_a_version_that_passes_its_check(tmp_path: Path, flowers: Path) -> None:
    result = run(
        *("import", flowers, "--name", "flowers", "--preprocess", "imagenet", "--try", DATA / "ship.jpg"),
        *("--repository", tmp_path / "models"),
    )

    assert result.exit_code == 0, result.output
    folder = tmp_path / "models" / "flowers" / "1"
    manifest = read_manifest(folder)
    assert (manifest.task, manifest.labels) == ("image-classification", LABELS)
    assert manifest.preprocess is not None
    assert (manifest.preprocess.preset, manifest.preprocess.is_guessed) == ("imagenet", False)
    assert len(read_golden(folder)["model"].inputs["image"]) > 1
    assert "ok     flowers 1: image-classification; model: batches up to 8" in result.output
    assert sum(label in result.output for label in LABELS) == 5
    assert "curl localhost:8000/v1/models/flowers/classify --data-binary @picture.jpg" in result.output
    assert run("check", tmp_path / "models").exit_code == 0


def test_a_second_import_is_the_next_version(tmp_path: Path, flowers: Path) -> None:
    for _ in range(2):
        result = run("import", flowers, "--name", "flowers", "--preprocess", "0-1", "--repository", tmp_path / "models")
        assert result.exit_code == 0, result.output

    assert sorted(folder.name for folder in (tmp_path / "models" / "flowers").iterdir()) == ["1", "2"]


def test_a_guess_is_shown_and_written_only_with_consent(tmp_path: Path, flowers: Path) -> None:
    arguments = ("import", flowers, "--name", "flowers", "--repository", tmp_path / "models")

    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "guessed: preprocessing imagenet (--preprocess" in refused.output
    assert not (tmp_path / "models" / "flowers").exists()

    assert run(*arguments, "--yes").exit_code == 0
    manifest = read_manifest(tmp_path / "models" / "flowers" / "1")
    assert manifest.preprocess is not None
    assert manifest.preprocess.is_guessed


def test_a_classifier_without_labels_is_not_written(tmp_path: Path, flowers: Path) -> None:
    flowers.with_name("labels.txt").unlink()

    result = run("import", flowers, "--name", "flowers", "--repository", tmp_path / "models")

    assert result.exit_code == 1
    assert "scores 5 classes; name them with --labels" in result.output


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (("--preprocess", "vgg"), "valid are"),
        (("--mean", "a,b"), "--mean is 'a,b'"),
        (("--mean", "1,2"), "must be one number, or one for each of 3 channels"),
        (("--std", "0"), "every deviation must be above 0"),
        (("--layout", "chw"), "valid are"),
        (("--crop", "wide"), "crop is 'wide'"),
        (("--task", "detection"), "valid are image-classification, tensors"),
        (("--activation", "relu"), "valid are softmax, sigmoid and none"),
    ],
)
def test_a_wrong_option_is_quoted_with_what_is_valid(flowers: Path, said: tuple[str, str], reason: str) -> None:
    result = run("import", flowers, "--name", "flowers", *said)

    assert result.exit_code == 2
    assert reason in result.output


def pictures(folder: Path, count: int) -> Path:
    """Pictures in folders of their classes, though not of what they show."""
    generator = np.random.default_rng(2)
    for number in range(count):
        place = folder / LABELS[number % len(LABELS)] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shades = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(shades).resize((96, 96), Image.Resampling.BILINEAR).save(place)
    return folder


def test_a_network_is_imported_in_other_precisions_that_are_scored(tmp_path: Path, flowers: Path) -> None:
    result = run(
        *("import", flowers, "--name", "flowers", "--preprocess", "imagenet", "--quantize", "--fp16"),
        *("--calibration", pictures(tmp_path / "pictures", 420), "--repository", tmp_path / "models"),
    )

    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "models" / "flowers" / "1")
    assert [(each.precision, len(each.evaluation)) for each in manifest.variants] == [("int8", 1), ("fp16", 1)]
    assert {(each.dataset, each.count) for each in manifest.evaluation} == {("pictures", 210)}
    assert "int8: ranges of 210 rows" in result.output
    assert "int8: speed beside fp32 on this machine" in result.output
    assert run("check", tmp_path / "models").exit_code == 0


def test_a_variant_without_a_score_says_how_it_is_served(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    product = helper.make_node("MatMul", ["x", "weights"], ["y"])
    content = graph_bytes([product], [("x", FLOAT, ["N", 8])], [("y", FLOAT, ["N", 8])], {"weights": weights})
    (tmp_path / "product.onnx").write_bytes(content)
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(1).normal(size=(40, 8)))

    result = run(
        *("import", tmp_path / "product.onnx", "--name", "product", "--quantize"),
        *("--calibration", tmp_path / "rows.npz", "--repository", tmp_path / "models"),
    )

    assert result.exit_code == 0, result.output
    assert "not chosen by itself, for it has no score" in result.output
    assert 'precision = "int8" in config.toml' in result.output


def test_a_graph_that_cannot_be_quantised_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_bytes(2.0))
    np.savez(tmp_path / "rows.npz", x=np.ones((40, 3)))

    result = run(
        *("import", tmp_path / "scale.onnx", "--name", "scale", "--quantize"),
        *("--calibration", tmp_path / "rows.npz", "--repository", tmp_path / "models"),
    )

    assert result.exit_code == 1
    assert "nothing that int8 would make faster" in result.output
    assert not (tmp_path / "models" / "scale").exists()


def test_quantising_needs_samples_and_samples_need_a_use(tmp_path: Path, flowers: Path) -> None:
    alone = run("import", flowers, "--name", "flowers", "--quantize")
    unused = run("import", flowers, "--name", "flowers", "--calibration", tmp_path)

    assert (alone.exit_code, unused.exit_code) == (2, 2)
    assert "needs --calibration" in alone.output
    assert "for --quantize, --int4 and --fp16" in unused.output


def test_any_other_graph_is_imported_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_bytes(2.0))

    result = run("import", tmp_path / "scale.onnx", "--name", "scale", "--repository", tmp_path / "models")

    assert result.exit_code == 0, result.output
    assert "ok     scale 1: tensors; model: batches up to 32, deviation 0" in result.output
    folder = tmp_path / "models" / "scale" / "1"
    golden = read_golden(folder)["model"]
    np.testing.assert_array_equal(golden.outputs["y"], 2 * golden.inputs["x"])
    assert (folder / "model.onnx").read_bytes() == scale_bytes(2.0)


def test_a_graph_is_verified_with_a_sample_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_bytes(2.0))
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "sample.npz", x=rows)
    np.savez(tmp_path / "other.npz", z=rows)
    arguments = ("import", tmp_path / "scale.onnx", "--name", "scale", "--repository", tmp_path / "models", "--sample")

    assert run(*arguments, tmp_path / "sample.npz").exit_code == 0
    refused = run(*arguments, tmp_path / "other.npz")

    np.testing.assert_array_equal(read_golden(tmp_path / "models" / "scale" / "1")["model"].inputs["x"], rows)
    assert refused.exit_code == 1
    assert "the inputs are ['x']" in refused.output


def test_a_graph_whose_outputs_of_random_inputs_are_no_numbers_is_verified_with_others(tmp_path: Path) -> None:
    (tmp_path / "log.onnx").write_bytes(one_node("Log", 1, ["batch", 2]))

    result = run("import", tmp_path / "log.onnx", "--name", "log", "--repository", tmp_path / "models")

    assert result.exit_code == 0, result.output
    assert np.isfinite(read_golden(tmp_path / "models" / "log" / "1")["model"].outputs["y"]).all()


def test_a_graph_that_no_row_verifies_is_served_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "never.onnx").write_bytes(
        graph_bytes(
            [helper.make_node("Mul", ["x", "nan"], ["y"])],
            [("x", FLOAT, ["batch", 3])],
            [("y", FLOAT, ["batch", 3])],
            {"nan": np.float32("nan")},
        )
    )

    result = run("import", tmp_path / "never.onnx", "--name", "never", "--repository", tmp_path / "models")

    assert result.exit_code == 0, result.output
    assert "verified: no" in result.output
    assert [file.name for file in (tmp_path / "models" / "never" / "1").iterdir()] == ["model.onnx"]


def test_a_graph_that_takes_a_scalar_is_imported(tmp_path: Path) -> None:
    (tmp_path / "scaled.onnx").write_bytes(
        graph_bytes(
            [helper.make_node("Mul", ["x", "factor"], ["y"])],
            [("x", FLOAT, ["batch", 3]), ("factor", FLOAT, [])],
            [("y", FLOAT, ["batch", 3])],
        )
    )

    result = run("import", tmp_path / "scaled.onnx", "--name", "scaled", "--repository", tmp_path / "models")

    assert result.exit_code == 0, result.output
    assert "ok     scaled 1: tensors; model: no batches" in result.output


def test_every_option_is_documented() -> None:
    options = [option for parameter in get_command(app).commands["import"].params for option in parameter.opts]  # type: ignore[attr-defined]
    flags = [option for option in options if option.startswith("--")]

    assert len(flags) > 15
    page = (DATA.parents[1] / "models" / "README.md").read_text()
    assert [flag for flag in flags if f"`{flag}" not in page and f" {flag} " not in page] == []


def test_an_imported_network_is_called_as_its_import_says(tmp_path: Path, flowers: Path) -> None:
    models = tmp_path / "models"
    (tmp_path / "scale.onnx").write_bytes(scale_bytes(2.0))
    Scorer(shape=(1, 3, 24, 24), ending="points").write(flowers.with_name("points.onnx"))
    run("import", flowers, "--name", "flowers", "--preprocess", "imagenet", "--repository", models)
    run("import", flowers.with_name("points.onnx"), "--name", "points", "--preprocess", "0-1", "--repository", models)
    shown = run("import", tmp_path / "scale.onnx", "--name", "scale", "--repository", models).output
    command = shlex.split(next(line for line in shown.splitlines() if line.startswith("curl")))
    several = [("file", sample("ship.jpg")), ("file", sample("shirt.png"))]

    with RunningService(models, "--instances", "1") as running, httpx.Client(base_url=running.url) as client:
        running.wait_until_ready()
        answer = client.post("/v1/models/flowers/classify", files=several).raise_for_status().json()
        embedded = client.post("/v1/models/flowers/embed", content=sample("ship.jpg")).raise_for_status().json()
        refused = client.post("/v1/models/points/embed", content=sample("ship.jpg"))
        explained = client.post("/v1/models/flowers/classify?explain=true", content=sample("ship.jpg"))
        inferred = client.post("/v2/models/scale/infer", content=command[-1]).raise_for_status().json()

    assert [len(result["predictions"]) for result in answer["results"]] == [5, 5]
    assert len(embedded["results"][0]["embedding"]) == 8
    assert (refused.status_code, explained.status_code) == (422, 422)
    assert "'points' gives no embeddings" in refused.json()["detail"]
    assert "'flowers' gives no explanations" in explained.json()["detail"]
    sent = json.loads(command[-1])["inputs"][0]["data"]
    assert inferred["outputs"][0]["data"] == pytest.approx([2 * value for value in sent])


@pytest.mark.slow
def test_a_program_of_torch_becomes_a_version(tmp_path: Path) -> None:
    script = """
import sys
import torch
from torch import nn
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
rows, batch = torch.rand(2, 3, 32, 32), torch.export.Dim("batch")
torch.export.save(torch.export.export(network, (rows,), dynamic_shapes=({0: batch},)), sys.argv[1])
"""
    path = tmp_path / "network.pt2"
    subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))

    result = run("import", path, "--name", "flowers", "--preprocess", "0-1", "--repository", tmp_path / "models")

    assert result.exit_code == 0, result.output
    assert "batches up to 32" in result.output
