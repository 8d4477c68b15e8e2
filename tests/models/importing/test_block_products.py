"""Weights in blocks keep the bits that they had in a file, and graphs over them compute what those in float32 do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from models.golden import read_golden
from models.importing.block_products import BLOCK_SIZE, Bits, quantized
from models.importing.language_variants import ScoredText, add_variant, perplexities
from models.importing.llama import SAMPLE, read_language_model
from models.importing.sources import ImportRefused
from models.manifest import Source, read_manifest
from models.variants import loss_of
from tests.models.importing.llama_folders import write_llama

KINDS: dict[str, dict[str, Any]] = {
    "own head": {},
    "tied": {"tie_word_embeddings": True},
    "narrow": {"hidden_size": 40, "biases": {"q", "k", "v", "o"}},
}


def dequantized(matrix: NDArray[np.float32], bits: Bits) -> NDArray[np.float64]:
    """What blocks stand for, by the operator's definition."""
    found = quantized(matrix, bits)
    levels, zeros = found["levels"].astype(np.int64), np.array(128)
    if bits == 4:
        levels = np.stack([levels & 15, levels >> 4], -1).reshape(*levels.shape[:2], BLOCK_SIZE)
        zeros = np.stack([found["zeros"] & 15, found["zeros"] >> 4], -1).reshape(len(levels), -1)
        zeros = zeros[:, : levels.shape[1], None].astype(np.int64)
    values = (levels - zeros) * found["scales"][..., None].astype(np.float64)
    return np.asarray(values.reshape(len(levels), -1)[:, : matrix.shape[1]], np.float64)


@pytest.mark.parametrize(("name", "bits"), [("Q8_0", 8), ("Q4_0", 4)])
def test_weights_of_a_quantised_file_keep_their_bits(name: str, bits: Bits) -> None:
    kind = GGMLQuantizationType[name]
    matrix = np.random.default_rng(0).normal(0, 0.1, (48, 96)).astype(np.float32)
    matrix[0] = 0
    stored = quants.dequantize(quants.quantize(matrix, kind), kind)

    np.testing.assert_allclose(dequantized(stored, bits), stored, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.008), (4, 0.12)])
def test_other_weights_lose_little(bits: Bits, most: float) -> None:
    matrix = np.random.default_rng(0).normal(0.05, 0.1, (40, 70)).astype(np.float32)

    error = dequantized(matrix, bits) - matrix

    assert np.sqrt(np.square(error).mean()) < most * matrix.std()


def version_of(folder: Path, **changes: Any) -> tuple[Path, Any]:
    model = read_language_model(write_llama(folder / "hf", **changes))
    version = folder / "tiny" / "1"
    version.mkdir(parents=True)
    model.write(version, Source(origin="tiny"))
    return version, model


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_in_blocks_computes_nearly_what_fp32_does(kind: str, tmp_path: Path) -> None:
    version, model = version_of(tmp_path, **KINDS[kind])
    text = ScoredText.take("sample", SAMPLE[:600], model.tokenizer, model.language)

    int8, int4 = (add_variant(version, model, precision, text, lambda all_, _: all_) for precision in ("int8", "int4"))

    manifest = read_manifest(version)
    assert [each.precision for each in manifest.variants] == ["int8", "int4"]
    assert int8.agreement is not None
    assert int8.agreement.value > 0.9
    fp32, ours = perplexities(manifest, int8)
    assert abs(ours / fp32 - 1) < 0.02
    golden = read_golden(version)["sequence"]
    losses = []
    for variant in (int8, int4):
        error = golden.variants[variant.precision]["logits"] - golden.outputs["logits"]
        losses.append(float(np.square(error).mean()))
        assert loss_of(manifest, variant) is not None
        assert np.abs(error).max() <= variant.graphs["prefill"].max_abs_error["logits"]
    assert 0 < losses[0] < losses[1]


def test_a_step_over_blocks_goes_on_where_a_prompt_ended(tmp_path: Path) -> None:
    version, model = version_of(tmp_path)
    text = ScoredText.take("sample", SAMPLE[:600], model.tokenizer, model.language)
    add_variant(version, model, "int8", text, lambda all_, _: all_)
    golden = read_golden(version)["sequence"]
    tokens, expected = golden.inputs["tokens"], golden.variants["int8"]["logits"]
    prefill, decode = (ort.InferenceSession(version / f"{name}.int8.onnx") for name in ("prefill", "decode"))
    states = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in model.language.states}

    inputs = {"tokens": tokens[:1, :-1], "length": np.zeros(1, np.int32), "wanted": np.array([0])}
    _, *caches = prefill.run(None, inputs | states)
    names = [output.name.removeprefix("next_") for output in prefill.get_outputs()[1:]]
    step = {"token": tokens[0, -1:], "length": np.array([tokens.shape[1] - 1], np.int32)}
    logits, *_ = decode.run(None, step | dict(zip(names, caches, strict=True)))

    np.testing.assert_allclose(logits[0], expected[0, -1], atol=0.1)


def test_a_text_that_is_too_short_to_score_is_refused(tmp_path: Path) -> None:
    model = read_language_model(write_llama(tmp_path / "hf"))

    with pytest.raises(ImportRefused, match="at least 16"):
        ScoredText.take("short.txt", "It was", model.tokenizer, model.language)
