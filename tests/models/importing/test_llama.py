"""An imported language model computes what its files say, whatever their variant, and says what it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.chat_template import read_chat_template
from models.golden import read_golden
from models.importing.llama import LanguageModel, read_language_model
from models.importing.llama_reference import LlamaReference
from models.importing.sources import ImportRefused
from models.manifest import Source, read_manifest
from tests.fake_models.tokenizers import character_level
from tests.models.importing.llama_folders import CONFIG, llama_weights, write_llama, write_safetensors
from training.export.language import CachedDecoder

NOVELIST = Path(__file__).resolve().parents[3] / "models" / "repository" / "novelist" / "1"
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"biases": {"q", "k", "v", "o", "gate", "up", "down"}},
    "narrow heads": {"hidden_size": 40, "biases": {"q", "k", "v", "o"}},
    "heads of their own width": {"head_dim": 32},
    "no groups": {"num_key_value_heads": 4},
    "llama 3": {"rope_scaling": LLAMA_3 | {"original_max_position_embeddings": 32}, "rope_theta": 5e5},
    "linear": {"rope_parameters": {"type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}},
    "window": {"model_type": "mistral", "sliding_window": 13},
    "qwen2": {"model_type": "qwen2", "biases": {"q", "k", "v"}},
    "qwen3": {"model_type": "qwen3", "norms": True, "head_dim": 16},
}


def written(folder: Path, model: LanguageModel) -> Path:
    target = folder / "tiny" / "1"
    target.mkdir(parents=True)
    model.write(target, Source(origin="owner/tiny", license="mit"))
    return target


def tokens(num_rows: int, num_tokens: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 300, (num_rows, num_tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_graphs_compute_what_the_network_does(variant: str, tmp_path: Path) -> None:
    model = read_language_model(write_llama(tmp_path / "hf", **VARIANTS[variant]))
    decoder = CachedDecoder(written(tmp_path, model), model.language.states, 2)
    rows, lengths = tokens(2, 48), [40, 3]
    expected, _ = LlamaReference(model.config, model.tensors).run(rows)

    for slot, length in enumerate(lengths):
        for start in range(0, length, 7):
            part = slice(start, min(start + 7, length))
            actual = decoder.prefill(slot, rows[slot, part], start)
            np.testing.assert_allclose(actual, expected[slot, part], atol=2e-4, rtol=0)
    for step in range(8):
        places = [length + step for length in lengths]
        actual = decoder.decode(rows[range(2), places], places)
        np.testing.assert_allclose(actual, expected[range(2), places], atol=2e-4, rtol=0)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ("llama", "tied")])
def test_what_a_variant_adds_shows_in_the_logits(variant: str, tmp_path: Path) -> None:
    changed = read_language_model(write_llama(tmp_path / "changed", **VARIANTS[variant]))
    plain = {name: value for name, value in VARIANTS[variant].items() if name in ("hidden_size", "head_dim")}
    if variant in ("heads of their own width", "no groups"):
        plain = {}
    usual = read_language_model(write_llama(tmp_path / "usual", **plain))
    rows = tokens(1, 48)

    logits = [LlamaReference(model.config, model.tensors).run(rows)[0] for model in (changed, usual)]

    assert np.abs(logits[0] - logits[1]).max() > 0.1


def novelist_folder(folder: Path) -> Path:
    """The shipped model under Hugging Face's names, taken from its graphs."""
    manifest = json.loads((NOVELIST / "manifest.json").read_text())
    shape = manifest["training"]["config"]
    head_width = shape["width"] // shape["num_heads"]
    sizes = np.cumsum([shape["num_heads"] * head_width, shape["num_kv_heads"] * head_width])
    content, ours = np.fromfile(NOVELIST / "weights.bin", np.float32), {}
    for tensor in onnx.load(NOVELIST / "decode.onnx", load_external_data=False).graph.initializer:
        if place := {entry.key: entry.value for entry in tensor.external_data}:
            start = int(place["offset"]) // 4
            ours[tensor.name] = content[start : start + int(np.prod(tensor.dims))].reshape(tensor.dims)
    theirs = {"model.embed_tokens.weight": ours["embedding"], "model.norm.weight": ours["norm"]}
    for layer in range(shape["num_layers"]):
        block = {name.split(".")[2]: ours[name] for name in ours if name.startswith(f"blocks.{layer}.")}
        names = {"self_attn.o_proj": "output", "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down"}
        named = {name: block[ours].T for name, ours in names.items()}
        parts = np.split(block["qkv"].T, sizes)
        named |= {f"self_attn.{part}_proj": matrix for part, matrix in zip("qkv", parts, strict=True)}
        named |= {"input_layernorm": block["attention_norm"], "post_attention_layernorm": block["feed_forward_norm"]}
        theirs |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in named.items()}
    config = CONFIG | {"vocab_size": shape["vocab_size"], "hidden_size": shape["width"], "tie_word_embeddings": True}
    config |= {"intermediate_size": shape["hidden_width"], "num_hidden_layers": shape["num_layers"]}
    config |= {name: shape[ours] for name, ours in {"num_key_value_heads": "num_kv_heads"}.items()}
    config |= {"num_attention_heads": shape["num_heads"], "max_position_embeddings": shape["context"]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((NOVELIST / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    write_safetensors(folder / "model.safetensors", theirs)
    return folder


def test_the_shipped_model_comes_back_byte_for_byte(tmp_path: Path) -> None:
    shipped = read_manifest(NOVELIST)
    model = read_language_model(novelist_folder(tmp_path / "hf"))

    imported = read_manifest(written(tmp_path, model))

    # Graphs name their weights' SHA-256 too.
    assert imported.graphs == shipped.graphs
    assert imported.language == shipped.language


def test_a_version_says_where_it_comes_from_and_how_large_it_is(tmp_path: Path) -> None:
    model = read_language_model(write_llama(tmp_path / "hf", tie_word_embeddings=True))

    manifest = read_manifest(written(tmp_path, model))

    weights = llama_weights(CONFIG | {"tie_word_embeddings": True}, (), False)
    num_parameters = sum(array.size for array in weights.values())
    assert manifest.source == Source(origin="owner/tiny", license="mit", parameters=num_parameters)
    assert "owner/tiny" in manifest.description
    assert model.slot_bytes == 2 * 2 * 2 * 96 * 16 * 4


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))

    version = written(tmp_path, read_language_model(folder))

    assert read_manifest(version).chat_template == "chat_template.jinja"
    assert read_chat_template(version) == "{{ messages }}"


def test_golden_rows_are_real_text_with_the_networks_logits(tmp_path: Path) -> None:
    model = read_language_model(write_llama(tmp_path / "hf"))

    golden = read_golden(written(tmp_path, model))

    rows = golden["sequence"].inputs["tokens"]
    assert rows.shape == (3, 24)
    assert not rows[:, 0].any()
    assert "was the best of times" in model.tokenizer.decode(rows[0, 1:].tolist())
    expected, _ = LlamaReference(model.config, model.tensors).run(rows)
    np.testing.assert_allclose(golden["sequence"].outputs["logits"], expected, atol=1e-5)
    assert golden["attention"].outputs["attention"].shape == (1, 2, 4, 96, 96)


def test_a_text_without_tokens_gives_way_to_any_tokens(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf", vocab_size=8)
    (folder / "tokenizer.json").write_bytes(character_level())

    golden = read_golden(written(tmp_path, read_language_model(folder)))

    assert set(golden["sequence"].inputs["tokens"].ravel()) == set(range(7))


def test_the_context_is_the_networks_or_what_was_asked_for(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf")

    assert read_language_model(folder).language.context == 96
    assert read_language_model(folder, 40).language.context == 40


def test_a_window_shorter_than_attention_can_show_leaves_that_graph_out(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf", model_type="mistral", sliding_window=13)

    assert set(read_manifest(written(tmp_path, read_language_model(folder))).graphs) == {"decode", "prefill"}
    assert read_language_model(folder, 12).language.attention_tokens == 12


# Special tokens.


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (0, 0, ())),
        ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}}, (1, 2, ())),
        ({"generation_config.json": {"eos_token_id": [5, 7, 5]}}, (0, 5, (7, 0))),
        ({"config.json": {"bos_token_id": None, "eos_token_id": 9}}, (9, 9, ())),
        (
            {
                "config.json": {"bos_token_id": None, "eos_token_id": None},
                "tokenizer_config.json": {"eos_token": {"content": "<|endoftext|>"}},
            },
            (0, 0, ()),
        ),
    ],
)
def test_the_tokens_that_begin_and_end_a_text(
    files: dict[str, dict[str, Any]], expected: tuple[int, int, tuple[int, ...]], tmp_path: Path
) -> None:
    folder = write_llama(tmp_path / "hf")
    for name, members in files.items():
        (folder / name).write_text(json.dumps((CONFIG if name == "config.json" else {}) | members))

    language = read_language_model(folder).language

    assert (language.bos_token, language.eos_token, language.stop_tokens) == expected
    assert language.end_tokens == {expected[1], *expected[2]}


# Refusals.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2'; .* llama, mistral"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type is 'longrope'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": LLAMA_3 | {"high_freq_factor": 1.0}}, "high_freq_factor is 1.0"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16}, "--context 16"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 15}, "15 wide"),
        ({"hidden_size": "large"}, "'large'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 1}, "18 tensors have no place|9 tensors have no place"),
        ({"num_hidden_layers": 3}, r"'model.layers.2.input_layernorm.weight' is missing; .* must be \[64\]"),
        ({"intermediate_size": 95}, r"is \[96, 64\]; .* must be \[95, 64\]"),
        ({"tie_word_embeddings": False}, "'lm_head.weight' is missing"),
        ({"vocab_size": 299}, "tokenizer.json has 300 tokens; the network has 299"),
        ({"eos_token_id": None, "bos_token_id": None}, "eos_token_id"),
        ({"eos_token_id": 300}, "eos_token is 300"),
    ],
)
def test_what_the_graphs_cannot_compute_is_refused_in_words(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = write_llama(tmp_path / "hf", tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))

    with pytest.raises(ImportRefused, match=words):
        read_language_model(folder)


def test_a_folder_without_a_fast_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hf")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ImportRefused, match=r"no tokenizer\.json\. .*save_pretrained"):
        read_language_model(folder)


def test_texts_get_vectors_where_every_token_looks_back_on_all_of_its_text(tmp_path: Path) -> None:
    plain = read_language_model(write_llama(tmp_path / "plain"))
    windowed = read_language_model(write_llama(tmp_path / "windowed", model_type="mistral", sliding_window=8))

    version = written(tmp_path / "a", plain)
    assert "embedding" in read_manifest(version).graphs
    assert read_golden(version)["embedding"].outputs["vector"].shape[1] == CONFIG["hidden_size"]
    assert "embedding" not in read_manifest(written(tmp_path / "b", windowed)).graphs
