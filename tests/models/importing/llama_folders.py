"""Hugging Face folders of small Llama-type networks with random weights, written by the formats' specifications."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fake_models.tokenizers import byte_level

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
Arrays = Mapping[str, NDArray[Any]]


def write_llama(folder: Path, *, biases: Collection[str] = (), norms: bool = False, **config: Any) -> Path:
    """Write a folder; `biases` are the projections that have one, `norms` those of queries and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = CONFIG | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_bytes(byte_level())
    write_safetensors(folder / "model.safetensors", llama_weights(settings, biases, norms))
    return folder


def llama_weights(config: Mapping[str, Any], biases: Collection[str], norms: bool) -> dict[str, NDArray[np.float32]]:
    """Random weights, large enough that every part of the network shows in the logits."""
    width, hidden, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    rows = {"q": heads * head_width, "k": config["num_key_value_heads"] * head_width}
    rows["v"] = rows["k"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        linear = {f"self_attn.{part}_proj": (rows[part], width) for part in "qkv"}
        linear |= {"self_attn.o_proj": (width, rows["q"]), "mlp.down_proj": (width, hidden)}
        linear |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width)}
        for name, shape in linear.items():
            shapes[f"{block}.{name}.weight"] = shape
            if name.split(".")[1].removesuffix("_proj") in biases:
                shapes[f"{block}.{name}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}.{norm}.weight"] = (width,)
        if norms:
            shapes |= {f"{block}.self_attn.{part}_norm.weight": (head_width,) for part in "qk"}
    random = np.random.default_rng(5)
    return {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_safetensors(path: Path, tensors: Arrays, kinds: Mapping[str, str] | None = None) -> None:
    """Write a file: the header's length, the header, the tensors' bytes. `kinds` names datatypes other than F32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, tensor in tensors.items():
        content = tensor.tobytes()
        kind = (kinds or {}).get(name, "F32")
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
