from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from models.golden import Golden, write_golden
from models.manifest import MANIFEST_FILE
from service.engine.repository import loading
from service.engine.repository.loading import load_version
from service.engine.repository.repository import find_models
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device, choose_device
from service.errors import StartupError
from service.settings import Settings
from tests.fake_models.classification import SHAPE, LinearClassifier
from tests.fake_models.style_transfer import TinyStylizer, write_stylizer

CPU = Device("cpu")
SETTINGS = Settings(instances=1, threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return LinearClassifier().write(tmp_path, "tiny")


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | changes))


def test_a_sound_version_is_loaded_verified_and_measured(folder: Path) -> None:
    loaded = load_version(folder, SETTINGS, CPU)

    graph = loaded.graphs["model"]
    assert graph.golden_error is not None
    assert graph.golden_error < 1e-5
    assert graph.providers == ("CPUExecutionProvider",)
    assert list(graph.bucket_seconds) == [1, 2, 4, 8]
    assert graph.cost.of_rows(graph.cost_elements).seconds(8) > 0


def test_a_loaded_graph_computes_what_numpy_computes(folder: Path) -> None:
    network = LinearClassifier()
    images = network.images(5)

    outputs = load_version(folder, SETTINGS, CPU).graphs["model"].runners[0].run({"image": images}, 5, ("embedding",))

    assert np.allclose(outputs["embedding"], network.outputs(images)["embedding"], atol=1e-5)


def test_instances_and_threads_are_chosen_by_measuring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_cpus", lambda: 2)
    monkeypatch.setattr(loading, "TRIAL_SECONDS", 0.02)

    graph = load_version(folder, Settings(), CPU).graphs["model"]

    assert (len(graph.runners), graph.num_threads) in [(2, 1), (1, 2)]


@pytest.mark.parametrize(("narrow", "wide", "expected"), [(100.0, 105.0, (2, 1)), (100.0, 150.0, (1, 2))])
def test_threads_must_clearly_beat_instances(
    folder: Path, monkeypatch: pytest.MonkeyPatch, narrow: float, wide: float, expected: tuple[int, int]
) -> None:
    rates = iter([narrow, wide])
    monkeypatch.setattr(loading, "available_cpus", lambda: 2)
    monkeypatch.setattr(loading, "_rows_per_second", lambda *_arguments: next(rates))

    graph = load_version(folder, Settings(), CPU).graphs["model"]

    assert (len(graph.runners), graph.num_threads) == expected


def test_the_batch_can_be_bounded_below_the_manifest(folder: Path) -> None:
    loaded = load_version(folder, Settings(instances=1, max_batch_size=3), CPU)

    assert loaded.graphs["model"].batching.buckets == (1, 2, 3)


def test_one_flipped_bit_in_the_weights_is_rejected(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)

    with pytest.raises(VersionRejected, match="SHA-256"):
        load_version(folder, SETTINGS, CPU)


def test_a_graph_that_no_longer_computes_its_golden_outputs_is_rejected(folder: Path) -> None:
    network = LinearClassifier()
    images = network.images(2)
    write_golden(folder, {"model": Golden({"image": images}, dict(LinearClassifier(seed=9).outputs(images)))})

    with pytest.raises(VersionRejected, match="deviates from its golden value"):
        load_version(folder, SETTINGS, CPU)


def test_golden_outputs_of_another_shape_are_rejected(folder: Path) -> None:
    network = LinearClassifier()
    images = network.images(2)
    outputs: dict[str, Any] = {**network.outputs(images), "embedding": np.zeros((2, 99), np.float32)}
    write_golden(folder, {"model": Golden({"image": images}, outputs)})

    with pytest.raises(VersionRejected, match=r"deviates .* by inf"):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        ({}, "nothing for the graph 'model'"),
        ({"model": Golden({"other": np.zeros((1, *SHAPE), np.uint8)}, {})}, "does not name"),
    ],
)
def test_golden_values_that_do_not_fit_are_rejected(folder: Path, golden: dict[str, Golden], reason: str) -> None:
    write_golden(folder, golden)

    with pytest.raises(VersionRejected, match=reason):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.onnx", b""), ("golden.npz", b"not an archive"), ("manifest.json", b"{"), ("manifest.json", b"{}")],
)
def test_a_broken_file_is_rejected(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)

    with pytest.raises(VersionRejected):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "manifest.json"])
def test_a_git_lfs_pointer_is_called_one(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")

    with pytest.raises(VersionRejected, match=f"{file} is a Git LFS pointer, not its content: run `git lfs pull`"):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "manifest.json"])
def test_a_missing_file_is_rejected(folder: Path, file: str) -> None:
    (folder / file).unlink()

    with pytest.raises(VersionRejected, match=file):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize(
    ("side", "change", "reason"),
    [
        ("inputs", {"name": "picture"}, "inputs are"),
        ("inputs", {"datatype": "FP32"}, "tensor\\(uint8\\) in the graph, not FP32"),
        ("inputs", {"shape": [-1, 6, 6, 1]}, "has the shape"),
        ("outputs", {"name": "odds"}, "no output 'odds'"),
    ],
)
def test_a_manifest_that_misdescribes_the_graph_is_rejected(
    folder: Path, side: str, change: dict[str, Any], reason: str
) -> None:
    graph = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]["model"]
    graph[side][0] |= change
    edit_manifest(folder, graphs={"model": graph})

    with pytest.raises(VersionRejected, match=reason):
        load_version(folder, SETTINGS, CPU)


def test_a_file_that_is_hashed_but_no_graph_is_rejected(folder: Path) -> None:
    from models.manifest import sha256_hex

    (folder / "model.onnx").write_bytes(b"no graph")
    graph = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]["model"]
    edit_manifest(folder, graphs={"model": graph | {"sha256": sha256_hex(b"no graph")}})

    with pytest.raises(VersionRejected, match="cannot load"):
        load_version(folder, SETTINGS, CPU)


def test_a_size_that_only_the_manifest_leaves_open_is_rejected(folder: Path) -> None:
    graph = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]["model"]
    graph["inputs"][0]["shape"] = [-1, -1, -1, 1]
    edit_manifest(folder, graphs={"model": graph})

    with pytest.raises(VersionRejected, match=r"has the shape .* in the graph, not \(-1, -1, -1, 1\)"):
        load_version(folder, SETTINGS, CPU)


def test_a_stylizer_is_loaded_with_all_its_graphs(tmp_path: Path) -> None:
    stylizer = write_stylizer(tmp_path)

    loaded = load_version(tmp_path / "tiny-stylizer" / "1", SETTINGS, CPU)

    assert list(loaded.graphs) == ["model", "statistics", "tile"]
    assert all(graph.rules.varies for graph in loaded.graphs.values())
    assert loaded.golden_error is not None
    assert loaded.golden_error <= 1 / 255
    # Golden images of 24x32 repeated as often as the bound of 128x128 pixels allows; 4 of them are within a batch.
    graph = loaded.graphs["model"]
    assert graph.cost_elements == 96 * 128 * 3 + 3
    assert list(graph.bucket_seconds) == [1, 4]
    pictures, weights = stylizer.images(2, 36, 44), stylizer.pure("fields", 2)
    arrays: dict[str, Any] = {"image": pictures, "style_weights": weights}
    painted = graph.runners[0].run(arrays, 2, ("painting",))["painting"]
    assert np.abs(painted.astype(int) - stylizer.paint(pictures, weights)).max() <= 1


def test_batches_of_varying_rows_are_measured_within_their_bound(tmp_path: Path) -> None:
    write_stylizer(tmp_path, max_batch_elements=2 * (96 * 128 * 3 + 3 + 2 * 8))

    loaded = load_version(tmp_path / "tiny-stylizer" / "1", SETTINGS, CPU)

    assert [list(graph.bucket_seconds) for graph in loaded.graphs.values()] == [[1, 2]] * 3


def test_the_graphs_of_a_stylizer_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stylizer(tmp_path)
    rates = iter([100.0, 150.0])
    monkeypatch.setattr(loading, "available_cpus", lambda: 2)
    monkeypatch.setattr(loading, "_rows_per_second", lambda *_arguments: next(rates))

    loaded = load_version(tmp_path / "tiny-stylizer" / "1", Settings(), CPU)

    assert [(len(graph.runners), graph.num_threads) for graph in loaded.graphs.values()] == [(1, 2)] * 3


@pytest.mark.parametrize("graph", ["model", "statistics", "tile"])
def test_a_stylizer_that_deviates_from_its_golden_image_is_rejected(tmp_path: Path, graph: str) -> None:
    stylizer = write_stylizer(tmp_path)
    folder = tmp_path / "tiny-stylizer" / "1"
    golden = stylizer.golden()
    golden[graph] = TinyStylizer(seed=5).golden()[graph]
    write_golden(folder, golden)

    with pytest.raises(VersionRejected, match="deviates from its golden value"):
        load_version(folder, SETTINGS, CPU)


def test_golden_images_off_the_stride_are_rejected(tmp_path: Path) -> None:
    stylizer = write_stylizer(tmp_path)
    folder = tmp_path / "tiny-stylizer" / "1"
    pictures, weights = stylizer.images(1, 33, 47), stylizer.pure("waves")
    painted = Golden({"image": pictures, "style_weights": weights}, {"painting": stylizer.paint(pictures, weights)})
    write_golden(folder, stylizer.golden() | {"model": painted})

    with pytest.raises(VersionRejected, match=r"does not fit the graph: .* multiples of 4"):
        load_version(folder, SETTINGS, CPU)


def test_versions_are_found_newest_first_by_number(tmp_path: Path) -> None:
    for version in ("2", "10", "1", "0", "draft"):
        (tmp_path / "tiny" / version).mkdir(parents=True)
    (tmp_path / "Bad Name" / "1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()

    found = find_models([tmp_path])

    assert {name: [f.name for f in model.versions] for name, model in found.items()} == {"tiny": ["10", "2", "1"]}


def test_a_wanted_model_that_does_not_exist_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "1").mkdir(parents=True)

    with pytest.raises(StartupError, match=r"\['nope'\].*there are \['tiny'\]"):
        find_models([tmp_path], ("tiny", "nope"))


def test_a_repository_that_is_no_folder_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="not a folder"):
        find_models([tmp_path / "nowhere"])


def test_cuda_that_this_runtime_lacks_is_an_error_and_never_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])

    assert str(choose_device("auto")) == "cpu"
    with pytest.raises(StartupError, match="--device cuda:1 was requested"):
        choose_device("cuda:1")


def test_the_device_is_read_from_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    assert str(choose_device("cuda:3")) == "cuda:3"
    assert choose_device("cuda").is_cuda
