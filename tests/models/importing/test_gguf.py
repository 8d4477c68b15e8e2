"""A language model of a GGUF file is the one of the Hugging Face folder that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from models.importing.llama import LanguageModel, read_language_model
from models.importing.llama_reference import LlamaReference
from models.importing.sources import ImportRefused
from tests.fake_models.tokenizers import byte_level
from tests.models.importing.gguf_files import write_gguf
from tests.models.importing.llama_folders import CONFIG, llama_weights, write_llama
from tests.models.importing.test_llama import tokens

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "biases": {"q", "k", "v"}},
    "qwen3": {"model_type": "qwen3", "norms": True},
}


def both(folder: Path, **changes: Any) -> tuple[LanguageModel, LanguageModel]:
    """The model of a folder, and that of a GGUF file with the same weights."""
    biases, norms = changes.pop("biases", ()), changes.pop("norms", False)
    config = CONFIG | changes
    theirs = read_language_model(write_llama(folder / "hf", biases=biases, norms=norms, **changes))
    weights = llama_weights(config, biases, norms)
    return theirs, read_language_model(write_gguf(folder / "tiny.gguf", config, weights, byte_level()))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, **KINDS[kind])

    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        np.testing.assert_array_equal(ours.tensors[name].read(), tensor.read())
    rows = tokens(1, 24)
    logits = [LlamaReference(model.config, model.tensors).run(rows)[0] for model in (ours, theirs)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_special_tokens_template_and_licence_come_along(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path)

    assert ours.language == theirs.language
    assert ours.files.chat_template == "{{ messages[0].content }}"
    assert ours.files.license == "mit"


def test_texts_have_the_tokens_of_the_tokenizer_that_the_file_was_made_with(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path)

    for text in (
        "It was the best of times",
        " naïve cafés",
        "日本語 🙂\n\n\t 12345",
        "<|endoftext|>",
        "it's",
        "a  b   c",
    ):
        assert ours.tokenizer.encode(text) == theirs.tokenizer.encode(text)


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_quantised_weights_are_what_their_blocks_say(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    weights = llama_weights(CONFIG, (), False)
    path = write_gguf(tmp_path / "tiny.gguf", CONFIG, weights, byte_level(), kind)

    tensors = read_language_model(path).tensors

    for name in ("model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight"):
        expected = quants.dequantize(quants.quantize(weights[name], kind), kind)
        np.testing.assert_array_equal(tensors[name].read(), expected)


def test_scaled_turns_are_read_as_settings_or_in_full(tmp_path: Path) -> None:
    weights = llama_weights(CONFIG, (), False)
    scaled: dict[str, Any] = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    plain = read_language_model(write_gguf(tmp_path / "a.gguf", CONFIG, weights, byte_level())).config
    linear = read_language_model(write_gguf(tmp_path / "b.gguf", CONFIG, weights, byte_level(), **scaled)).config
    factors = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 8.0]
    config = CONFIG | {"rope_factors": factors}
    full = read_language_model(write_gguf(tmp_path / "c.gguf", config, weights, byte_level())).config

    np.testing.assert_allclose(linear.frequencies() * 4, plain.frequencies())
    np.testing.assert_allclose(full.frequencies() * factors, plain.frequencies())


@pytest.mark.parametrize(
    ("metadata", "changes", "words"),
    [
        ({}, {"model_type": "gpt2"}, "architecture 'gpt2'; llama, qwen2"),
        ({"tokenizer__ggml__pre": "odd"}, {}, "splits texts by 'odd'.*gpt-2"),
        ({"tokenizer__ggml__model": "t5"}, {}, "a tokenizer of the kind 't5'"),
        ({"llama__rope__scaling__type": "longrope"}, {}, "rope_type is 'longrope'"),
        ({}, {"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_words(
    metadata: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    weights = llama_weights(CONFIG, (), False)
    path = write_gguf(tmp_path / "tiny.gguf", CONFIG | changes, weights, byte_level(), **metadata)

    with pytest.raises(ImportRefused, match=words):
        read_language_model(path)
