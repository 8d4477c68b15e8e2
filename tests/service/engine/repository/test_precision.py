"""The fastest precision that may serve does; what loses too much, or computes something else here, does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.config import build_config
from models.golden import read_golden
from models.strict import StrictError
from service.engine.repository import precision
from service.engine.repository.loading import LoadedVersion, load_version
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import AttentionDecoder, random_tokens
from tests.fake_models.variants import (
    FILE,
    prompt_logits,
    run_alone,
    write_decoder_with_int8,
    write_with_int8,
)


@pytest.fixture
def speedup(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How many times as fast as fp32 int8 appears to be, by batch size."""
    factors = {"1": 2.0, "8": 2.0, "5": 1.5}

    def seconds(opened: dict[str, Any], sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
        by_precision = {"fp32": dict.fromkeys(factors, 1.0), "int8": {key: 1 / each for key, each in factors.items()}}
        return {name: {str(size): by_precision[name][str(size)] for size in sizes} for name in opened}

    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(precision, "_measured_speedups", {})
    return factors


def load(folder: Path, config: dict[str, Any] | None = None, **settings: Any) -> LoadedVersion:
    return load_version(folder, Settings(instances=1, threads=1, **settings), Device("cpu"), build_config(config or {}))


def test_the_faster_variant_serves_and_says_why(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_with_int8(tmp_path, "tiny")
    images = LinearClassifier().images(3)

    loaded = load(folder)

    assert loaded.precision.precision == "int8"
    assert loaded.precision.speedups == {"int8": {"1": 2.0, "8": 2.0}}
    assert "2.00 times at batch 1, 2.00 times at batch 8; it loses 0 percentage points" in loaded.precision.reason
    outputs = loaded.graphs["model"].runners[0].run({"image": images}, 3, ("activation_map",))
    expected = run_alone((folder / FILE).read_bytes(), images)["activation_map"]
    np.testing.assert_allclose(outputs["activation_map"], expected, atol=1e-4)
    assert loaded.golden_error is not None
    assert loaded.golden_error < 1e-3


def test_a_version_that_is_loaded_again_answers_as_before(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_with_int8(tmp_path, "tiny")
    before = load(folder).precision

    speedup.update({"1": 0.5, "8": 0.5})

    assert load(folder).precision == before
    assert load(folder, {"max_batch_size": 1}).precision.precision == "fp32"  # another question is measured


@pytest.mark.parametrize(
    ("at_one", "at_eight", "served"), [(1.05, 1.05, "fp32"), (0.9, 2.0, "int8"), (0.5, 1.5, "fp32")]
)
def test_a_variant_must_win_clearly_over_all_batches(
    tmp_path: Path, speedup: dict[str, float], at_one: float, at_eight: float, served: str
) -> None:
    speedup.update({"1": at_one, "8": at_eight})

    assert load(write_with_int8(tmp_path, "tiny")).precision.precision == served


@pytest.mark.parametrize(
    ("accuracy", "max_loss", "served"),
    [
        (0.951, None, "int8"),
        (0.949, None, "int8"),
        (0.9489, None, "fp32"),
        (0.9489, 0.5, "int8"),
        (0.949, 0.05, "fp32"),
        (None, None, "fp32"),
        (None, 100, "fp32"),
    ],
)
def test_a_variant_that_loses_too_much_or_has_no_score_does_not_serve(
    tmp_path: Path, speedup: dict[str, float], accuracy: float | None, max_loss: float | None, served: str
) -> None:
    folder = write_with_int8(tmp_path, "tiny", accuracy=accuracy)

    found = load(folder, {} if max_loss is None else {"max_loss": max_loss}).precision

    assert found.precision == served
    assert bool(found.obstacles) == (served == "fp32")


def test_a_variant_that_computes_something_else_on_this_device_does_not_serve(
    tmp_path: Path, speedup: dict[str, float]
) -> None:
    images = LinearClassifier().images(3, seed=7)
    other = {name: array + np.float32(0.01) for name, array in LinearClassifier().outputs(images).items()}

    found = load(write_with_int8(tmp_path, "tiny", golden=other, stated_errors=1.0)).precision

    assert found.precision == "fp32"
    assert "deviates from its golden value" in found.obstacles["int8"]


def test_a_variant_that_is_further_from_fp32_than_stated_does_not_serve(
    tmp_path: Path, speedup: dict[str, float]
) -> None:
    found = load(write_with_int8(tmp_path, "tiny", stated_errors=0.0)).precision

    assert found.precision == "fp32"
    assert "the manifest says 0 at most" in found.obstacles["int8"]


def test_a_variant_whose_rows_depend_on_their_company_does_not_serve(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_with_int8(tmp_path, "tiny", is_dynamic=True)
    precision_found = load(folder, golden_tolerance=10.0).precision

    assert precision_found.precision == "fp32"
    assert "depends on who shares its batch" in precision_found.obstacles["int8"]


def test_rows_need_not_be_independent_where_they_never_share_a_batch(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_with_int8(tmp_path, "tiny", is_dynamic=True)

    assert load(folder, {"batched": False}).precision.precision == "int8"


def test_golden_outputs_of_a_variant_may_not_be_missing(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_with_int8(tmp_path, "tiny")
    plain = LinearClassifier().write(tmp_path / "other", "tiny")
    (folder / "golden.npz").write_bytes((plain / "golden.npz").read_bytes())

    found = load(folder).precision

    assert found.precision == "fp32"
    assert "nothing for the graphs ['model'] in int8" in found.obstacles["int8"]


@pytest.mark.parametrize("wanted", ["fp32", "int8"])
def test_what_is_set_serves_without_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(precision, "_seconds", None)
    folder = write_with_int8(tmp_path, "tiny", accuracy=None)

    assert load(folder, {"precision": wanted}).precision.precision == wanted
    assert load(folder, precision=wanted).precision.precision == wanted
    assert load(folder, {"precision": "fp32"}, precision=wanted).precision.precision == "fp32"


def test_what_a_model_demands_and_cannot_have_rejects_it(tmp_path: Path) -> None:
    folder = write_with_int8(tmp_path, "tiny", accuracy=0.9)
    plain = LinearClassifier().write(tmp_path, "plain")

    with pytest.raises(VersionRejected, match=r"precision = 'fp16'; this version has fp32, int8\."):
        load(folder, {"precision": "fp16"})
    with pytest.raises(VersionRejected, match="loses 5 percentage points; at most 1 are allowed"):
        load(folder, {"precision": "int8", "max_loss": 1.0})
    with pytest.raises(VersionRejected, match=r"this version has fp32\."):
        load(plain, {"precision": "int8"})


def test_what_the_service_wants_and_a_version_cannot_have_leaves_it_in_fp32(tmp_path: Path) -> None:
    broken = write_with_int8(tmp_path, "tiny", stated_errors=0.0)
    plain = LinearClassifier().write(tmp_path, "plain")

    assert load(broken, precision="int8").precision.precision == "fp32"
    assert load(broken, precision="fp16").precision.precision == "fp32"
    assert load(plain, precision="int8").precision.precision == ""


def test_a_damaged_variant_rejects_the_version_as_any_damaged_file_does(tmp_path: Path) -> None:
    folder = write_with_int8(tmp_path, "tiny")
    content = bytearray((folder / FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / FILE).write_bytes(content)

    with pytest.raises(VersionRejected, match=r"model\.int8\.onnx has the SHA-256"):
        load(folder)


def test_the_real_clock_compares_the_smallest_and_the_largest_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "TRIAL_SECONDS", 0.01)
    monkeypatch.setattr(precision, "_measured_speedups", {})
    folder = write_with_int8(tmp_path, "tiny")

    found = load(folder).precision
    bounded = load(folder, {"max_batch_size": 3}).precision
    small = load(folder, {"warm_up": False}).precision

    assert found.precision in ("fp32", "int8")
    assert [set(each.speedups["int8"]) for each in (found, bounded, small)] == [{"1", "8"}, {"1", "3"}, {"1"}]
    assert all(factor > 0 for factor in found.speedups["int8"].values())


def test_a_twin_that_helps_out_is_verified_and_measured_as_what_serves(tmp_path: Path) -> None:
    folder = write_with_int8(tmp_path, "tiny")
    images = LinearClassifier().images(3)

    loaded = load(folder, {"precision": "fp32", "degrade_to": "int8", "latency_objective_seconds": 0.1})

    graph = loaded.graphs["model"]
    assert loaded.precision.precision == "fp32"
    assert graph.twin is not None
    assert graph.twin.bucket_seconds.keys() == graph.bucket_seconds.keys()
    outputs = graph.twin.runner.run({"image": images}, 3, ("activation_map",))
    expected = run_alone((folder / FILE).read_bytes(), images)["activation_map"]
    np.testing.assert_allclose(outputs["activation_map"], expected, atol=1e-4)


def test_without_a_variant_to_degrade_to_a_version_is_rejected_and_says_what_there_is(tmp_path: Path) -> None:
    folder = write_with_int8(tmp_path, "tiny")

    with pytest.raises(VersionRejected, match=r"degrade_to = 'fp16'; the variants of this version: int8"):
        load(folder, {"precision": "fp32", "degrade_to": "fp16", "latency_objective_seconds": 0.1})


def test_what_serves_needs_no_twin(tmp_path: Path) -> None:
    folder = write_with_int8(tmp_path, "tiny")

    loaded = load(folder, {"precision": "int8", "degrade_to": "int8", "latency_objective_seconds": 0.1})

    assert loaded.graphs["model"].twin is None


def test_degrading_needs_an_objective() -> None:
    with pytest.raises(StrictError, match="latency_objective_seconds"):
        build_config({"degrade_to": "int8"})


# Language models.


def load_texts(folder: Path, config: dict[str, Any] | None = None, **settings: Any) -> LoadedVersion:
    return load(folder, config, max_sequences=5, **settings)


def test_a_language_model_serves_in_the_faster_precision(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_decoder_with_int8(tmp_path, lost=0.004)
    tokens = read_golden(folder)["sequence"].inputs["tokens"][:1]

    loaded = load_texts(folder)

    assert loaded.precision.precision == "int8"
    assert loaded.precision.reason.endswith(
        "2.00 times at batch 1, 1.50 times at batch 5; it loses 0.004 bits per byte"
    )
    assert loaded.decoder is not None
    logits = loaded.decoder.decoder.prefill(2, tokens[0], 0, list(range(24)))
    assert np.array_equal(logits, prompt_logits(folder, "prefill.int8.onnx", tokens)[0])
    assert not np.allclose(logits, AttentionDecoder().logits(tokens[0]), atol=1e-3)
    assert loaded.golden_error is not None


def test_the_graph_that_explains_stays_in_fp32(tmp_path: Path, speedup: dict[str, float]) -> None:
    loaded = load_texts(write_decoder_with_int8(tmp_path))

    network = AttentionDecoder()
    window = np.array([random_tokens(network.attention_tokens, 5)])
    outputs = loaded.graphs["attention"].runners[0].run({"tokens": window}, 1, ("attention",))
    assert np.allclose(outputs["attention"][0, 0], network.attention(window[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("lost", "max_loss", "served"),
    [
        (-0.1, None, "int8"),
        (0.005, None, "int8"),
        (0.0051, None, "fp32"),
        (0.0051, 0.01, "int8"),
        (0.004, 0.003, "fp32"),
        (None, None, "fp32"),
    ],
)
def test_a_language_model_may_lose_some_bits_per_byte(
    tmp_path: Path, speedup: dict[str, float], lost: float | None, max_loss: float | None, served: str
) -> None:
    folder = write_decoder_with_int8(tmp_path, lost=lost)

    assert load_texts(folder, {} if max_loss is None else {"max_loss": max_loss}).precision.precision == served


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"golden_reach": 0.2, "stated_error": 999.0}, "logits deviate from their golden values by"),
        ({"stated_error": 0.0}, "the manifest says 0 at most"),
        ({"is_dynamic": True, "stated_error": 99.0}, "logits depend on the texts beside it"),
    ],
)
def test_a_faulty_variant_of_a_language_model_does_not_serve(
    tmp_path: Path, speedup: dict[str, float], faults: dict[str, Any], reason: str
) -> None:
    tolerance = 99.0 if "is_dynamic" in faults else 1e-3

    found = load_texts(write_decoder_with_int8(tmp_path, **faults), golden_tolerance=tolerance).precision

    assert found.precision == "fp32"
    assert reason in found.obstacles["int8"]


def test_logits_may_deviate_within_what_rounding_costs(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_decoder_with_int8(tmp_path, golden_reach=0.995, stated_error=99.0)

    loaded = load_texts(folder)

    assert loaded.precision.precision == "int8"
    assert loaded.golden_error is not None
    assert loaded.golden_error > 1e-3


def test_golden_logits_of_a_variant_may_not_be_missing(tmp_path: Path, speedup: dict[str, float]) -> None:
    folder = write_decoder_with_int8(tmp_path)
    plain = AttentionDecoder().write(tmp_path / "other")
    (folder / "golden.npz").write_bytes((plain / "golden.npz").read_bytes())

    assert "nothing for the graphs ['sequence'] in int8" in load_texts(folder).precision.obstacles["int8"]


def test_damaged_weights_of_a_variant_reject_the_version(tmp_path: Path) -> None:
    folder = write_decoder_with_int8(tmp_path)
    content = bytearray((folder / "weights.int8.bin").read_bytes())
    content[7] ^= 1
    (folder / "weights.int8.bin").write_bytes(content)

    with pytest.raises(VersionRejected, match=r"weights\.int8\.bin has the SHA-256"):
        load_texts(folder)


def test_the_real_clock_compares_one_text_and_all_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TRIAL_SECONDS", 0.01)
    monkeypatch.setattr(precision, "_measured_speedups", {})
    folder = write_decoder_with_int8(tmp_path)

    assert set(load_texts(folder).precision.speedups["int8"]) == {"1", "5"}
    assert set(load_texts(folder, {"warm_up": False}).precision.speedups["int8"]) == {"1"}
