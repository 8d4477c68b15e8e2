from __future__ import annotations

from pathlib import Path

from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.service.cli.command import run


def test_a_repository_without_faults_passes(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path, "tiny")
    write_bare(tmp_path, "scale", scale_bytes(2))

    result = run("check", tmp_path)

    assert result.exit_code == 0, result.output
    assert "ok     scale 1: tensors; model: batches up to 32, not verified" in result.output
    assert "ok     tiny 1: image-classification; model: batches up to 8, deviation " in result.output


def test_every_fault_is_named_and_the_exit_status_is_1(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path, "tiny")
    (network.write(tmp_path, "changed") / "model.onnx").write_bytes(scale_bytes(2))
    write_bare(tmp_path, "broken", b"no graph")
    write_bare(tmp_path, "misled", scale_bytes(2))
    (tmp_path / "misled" / "config.toml").write_text("cache = 1\n")
    write_bare(tmp_path, "absent", scale_bytes(2))
    (tmp_path / "absent" / "config.toml").write_text("version_policy = { specific = [4] }\n")

    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert "ok     tiny 1" in result.output
    assert "FAILED changed 1: model.onnx has the SHA-256" in result.output
    assert "FAILED broken 1: ONNX Runtime cannot load the graph" in result.output
    assert "FAILED misled -: config.toml: Object contains unknown field `cache`" in result.output
    assert "FAILED absent -: version_policy names none of the versions ['1']" in result.output
    assert "4 of what" in result.output


def test_what_would_not_be_served_is_named_too(tmp_path: Path) -> None:
    write_bare(tmp_path, "ResNet50", scale_bytes(2))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.onnx").write_bytes(scale_bytes(2))
    write_bare(tmp_path, "My Model", scale_bytes(2))
    write_bare(tmp_path, "net", scale_bytes(2), "v1")
    (tmp_path / "stray.onnx").write_bytes(scale_bytes(2))

    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert "ok     ResNet50 1: tensors" in result.output
    assert "ok     bare 1: tensors" in result.output
    assert "FAILED My Model -: a model's name has" in result.output
    assert "FAILED net v1: a version is" in result.output
    assert "FAILED stray.onnx -: a network must lie in a folder of its own" in result.output
    assert "3 of what" in result.output


def test_a_folder_without_models_is_no_repository(tmp_path: Path) -> None:
    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert "holds no model" in result.output


def test_a_task_that_the_service_does_not_know_is_a_fault(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path, "cook", task="cooking")

    result = run("check", tmp_path)

    assert result.exit_code == 1
    assert "FAILED cook 1: task is 'cooking'; this service knows image-classification, " in result.output
