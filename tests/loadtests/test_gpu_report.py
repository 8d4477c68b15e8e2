"""The parts of the GPU report that need no GPU."""

import json
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
import pytest

from loadtests import gpu_checks, gpu_report, gpu_use, networks
from loadtests.servers import REPOSITORY
from models.golden import Golden, read_golden, write_golden

SMALL = networks.Residual("small", depths=(1, 1), width=8, image_size=28, num_channels=1, num_classes=10, stem_stride=1)


def test_a_machine_without_cuda_gets_a_clear_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    assert gpu_report.main(["--repository", str(tmp_path)]) == 2
    assert "CUDAExecutionProvider is not in this ONNX Runtime" in capsys.readouterr().out
    assert not (tmp_path / "loadtests").exists()


def test_a_dry_run_on_the_cpu_checks_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    shipped, output = tmp_path / "shipped", tmp_path / "out"
    networks.write_residual(shipped, SMALL, (1, 4))
    arguments = ["--device", "cpu", "--bare-only", "--repository", str(shipped), "--output", str(output)]
    assert gpu_report.main(arguments) == 0
    page = json.loads((output / "gpu.json").read_text(encoding="utf-8"))
    assert page["dry_run"] is True
    assert page["faults"] == []
    assert {check["model"] for check in page["checks"]} == {"small", "small-fp16"}
    assert all(pace["images_per_second"] > 0 for pace in page["paces"])


def test_outputs_that_differ_from_the_golden_ones_are_a_fault(tmp_path: Path) -> None:
    folder = networks.write_residual(tmp_path, SMALL, (1, 4))
    golden = read_golden(folder)["model"]
    wrong = golden.outputs | {"probabilities": golden.outputs["probabilities"] + np.float32(0.1)}
    write_golden(folder, {"model": Golden(golden.inputs, wrong)})
    report = gpu_report.Report({}, "cpu", dry_run=True)
    gpu_report.run_checks(report, folder, "cpu")
    assert len(report.faults) == 1
    assert "golden outputs differ by 1.00e-01" in report.faults[0]


def test_a_graph_that_fails_leaves_the_others_checked(tmp_path: Path) -> None:
    folder = networks.write_residual(tmp_path, SMALL, (1, 4))
    write_golden(
        folder, {"model": Golden({"image": np.zeros((1, 9, 9, 1), np.uint8)}, read_golden(folder)["model"].outputs)}
    )
    report = gpu_report.Report({}, "cpu", dry_run=True)
    gpu_report.run_checks(report, folder, "cpu")
    assert report.checks[0]["providers"] == ["CPUExecutionProvider"]
    assert len(report.faults) == 1
    assert report.faults[0].startswith("small, model: InvalidArgument: ")


@pytest.mark.parametrize("name", ["novelist", "novelist-lstm"])
def test_a_language_model_is_checked_by_its_prompts_and_by_its_steps(name: str) -> None:
    checks = {check["graph"]: check for check in gpu_checks.check_model(REPOSITORY / name / "1", "cpu")}
    assert all(checks[graph]["largest_relative_error"] < 1e-5 for graph in ("prefill", "decode"))
    assert all(check["failure"] is None for check in checks.values())


def test_a_step_that_fails_is_a_fault_and_the_next_one_is_taken() -> None:
    report = gpu_report.Report({}, "cpu", dry_run=True)

    def lose_the_device() -> None:
        raise RuntimeError("CUDA error 700")

    gpu_report.attempt(report, "painter, served", lose_the_device)
    gpu_report.attempt(report, "novelist, served", lambda: report.rates.append({"model": "novelist"}))
    assert report.faults == ["painter, served: RuntimeError: CUDA error 700"]
    assert report.rates == [{"model": "novelist"}]


def test_only_arithmetic_on_shapes_may_run_outside_the_device() -> None:
    placed = {"CUDAExecutionProvider": {"Conv": 9}, "CPUExecutionProvider": {"Shape": 1, "Softmax": 1}}
    assert gpu_checks.strays(placed, "cuda") == ["Softmax"]


def test_nodes_are_counted_where_they_run(tmp_path: Path) -> None:
    folder = networks.write_residual(tmp_path, SMALL, (1, 4))
    placed = gpu_checks.placement(gpu_checks.open_session(folder / "model.onnx", "cpu"))
    assert set(placed) == {"CPUExecutionProvider"}
    assert sum(placed["CPUExecutionProvider"].values()) > 10


def test_looks_at_the_gpu_are_averaged_since_a_position() -> None:
    looks = [gpu_use.parse_use(line) for line in ("10, 900", "80, 1000\n", "90, 1100")]
    watch = gpu_use.Watch([look for look in looks if look is not None])
    assert watch.since(1) == {"gpu_percent": 85.0, "gpu_memory_mib": 1100.0}
    assert gpu_use.parse_use("[N/A], [N/A]") is None


def test_without_nvidia_smi_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with gpu_use.watching() as watch:
        assert watch.since(0) == {"gpu_percent": None, "gpu_memory_mib": None}
