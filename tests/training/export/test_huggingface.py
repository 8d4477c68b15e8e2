"""The saved folder holds our weights under Llama's names, and settings that describe the same network."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.fake_models.tokenizers import SAMPLE, byte_level
from tests.training.small_language import small_recurrent, small_transformer
from training.export.huggingface import save_llama


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read a safetensors file by its specification: the header's length, the header, the tensors' bytes."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    assert header.pop("__metadata__") == {"format": "pt"}
    body = content[8 + header_bytes :]
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(body[begin:end], np.float32).reshape(entry["shape"])
    assert sum(tensor.nbytes for tensor in tensors.values()) == len(body)
    return tensors


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(byte_level().decode())


def test_the_tensors_joined_again_are_our_weights(tmp_path: Path) -> None:
    network = small_transformer(vocab_size=tokenizer().get_vocab_size())

    save_llama(network, tokenizer(), tmp_path / "llama", begin=0)

    theirs = read_tensors(tmp_path / "llama" / "model.safetensors")
    ours = {
        "embedding.weight": theirs.pop("model.embed_tokens.weight"),
        "norm.weight": theirs.pop("model.norm.weight"),
    }
    for layer in range(2):
        pop = {name: theirs.pop(f"model.layers.{layer}.{name}.weight") for name in LAYER_NAMES}
        assert pop["self_attn.k_proj"].shape == (32, 64)
        ours |= {
            f"blocks.{layer}.attention_norm.weight": pop["input_layernorm"],
            f"blocks.{layer}.attention.qkv.weight": np.concatenate([pop[f"self_attn.{p}_proj"] for p in "qkv"]),
            f"blocks.{layer}.attention.output.weight": pop["self_attn.o_proj"],
            f"blocks.{layer}.feed_forward_norm.weight": pop["post_attention_layernorm"],
            f"blocks.{layer}.feed_forward.gate_up.weight": np.concatenate((pop["mlp.gate_proj"], pop["mlp.up_proj"])),
            f"blocks.{layer}.feed_forward.down.weight": pop["mlp.down_proj"],
        }
    state = network.state_dict()
    assert theirs == {}
    assert ours.keys() == state.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(torch.tensor(tensor), state[name], rtol=0, atol=0)


LAYER_NAMES = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def test_the_settings_describe_the_network(tmp_path: Path) -> None:
    save_llama(small_transformer(vocab_size=tokenizer().get_vocab_size()), tokenizer(), tmp_path, begin=0)

    config = json.loads((tmp_path / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokenizer().get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 96,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    assert {name: config[name] for name in expected} == expected
    assert math.isclose(config["rms_norm_eps"], 1e-5)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 0}


def test_the_saved_tokenizer_begins_a_text_with_the_end_of_the_one_before(tmp_path: Path) -> None:
    ours = tokenizer()

    save_llama(small_transformer(vocab_size=ours.get_vocab_size()), ours, tmp_path, begin=0)

    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = ours.encode(SAMPLE).ids
    assert saved.encode(SAMPLE).ids == [0, *plain]
    assert saved.encode(SAMPLE, add_special_tokens=False).ids == plain
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == settings["eos_token"] == "<|endoftext|>"
    assert settings["model_max_length"] == 96


def test_a_recurrent_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the network is RecurrentLanguageModel; only a Transformer"):
        save_llama(small_recurrent("lstm"), tokenizer(), tmp_path / "llama", begin=0)

    assert not (tmp_path / "llama").exists()


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tokenizer has 300 tokens; it must have 61"):
        save_llama(small_transformer(), tokenizer(), tmp_path / "llama", begin=0)
