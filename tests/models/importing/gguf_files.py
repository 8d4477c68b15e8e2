"""GGUF files of small networks, written by llama.cpp's own package, as its converter of Hugging Face folders does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from numpy.typing import NDArray

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, NDArray[np.float32]],
    tokenizer: bytes,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    **metadata: Any,
) -> Path:
    """Write a network that has the names and settings of a Hugging Face folder; matrices are of a `kind`."""
    architecture = str(config["model_type"])
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10_000.0))
    writer.add_license("mit")
    _add_tokenizer(writer, tokenizer, config)
    for name, value in metadata.items():
        key = name.replace("__", ".")
        writer.kv_data[0].pop(key, None)  # which is said otherwise
        (writer.add_float32 if isinstance(value, float) else writer.add_string)(key, value)
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    for name, tensor in weights.items():
        block, _, member = name.rpartition(".")
        layer = block.split(".")[2] if block.startswith("model.layers.") else None
        part = ".".join(block.split(".")[3:]) if layer else block
        rows = permuted(tensor, heads[part]) if architecture == "llama" and part in heads else tensor
        prefix = f"blk.{layer}." if layer else ""
        _add_tensor(writer, f"{prefix}{NAMES[part]}.{member}", rows, kind if rows.ndim == 2 else kind.F32)
    if "rope_factors" in config:
        writer.add_tensor("rope_freqs.weight", np.array(config["rope_factors"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(rows: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """The rows of queries or keys as llama.cpp has them (conversion/llama.py: `permute`)."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _add_tensor(writer: GGUFWriter, name: str, tensor: NDArray[np.float32], kind: GGMLQuantizationType) -> None:
    if kind == kind.F32:
        writer.add_tensor(name, tensor)
    else:
        writer.add_tensor(name, quants.quantize(tensor, kind), raw_dtype=kind)


def _add_tokenizer(writer: GGUFWriter, content: bytes, config: Mapping[str, Any]) -> None:
    layout = json.loads(content)
    vocabulary, special = layout["model"]["vocab"], {each["content"] for each in layout["added_tokens"]}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([TokenType.CONTROL if name in special else TokenType.NORMAL for name in names])
    writer.add_token_merges([" ".join(pair) for pair in layout["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template("{{ messages[0].content }}")
