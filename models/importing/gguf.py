"""A GGUF file with a Llama-type network, under the names and with the settings of a Hugging Face folder.

Keys and names of tensors: gguf-py/gguf/constants.py of llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from models.importing.gguf_file import Floats, GgufFile, GgufTensor, read_gguf_file
from models.importing.gguf_tokenizer import read_tokenizer
from models.importing.graph_builder import DeferredTensor
from models.importing.llama_config import LlamaConfig, check_config
from models.importing.llama_files import LanguageFiles, Tensor
from models.importing.sources import ImportRefused

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_KEYS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>[a-z_]+)\.(?P<member>weight|bias)")
# The factors that each pair's turn is divided by, in full.
_FACTORS = "rope_freqs.weight"


def read_gguf(path: Path) -> LanguageFiles:
    """Read what a file holds of a language model.

    Raises: ImportRefused.
    """
    file = read_gguf_file(path)
    config = _config(file, path.name)
    tensors = {_name(name): _tensor(name, tensor, config) for name, tensor in file.tensors.items() if name != _FACTORS}
    tokenizer = read_tokenizer(file.metadata, path.name)
    template, named = (file.metadata.get(key) for key in ("tokenizer.chat_template", "general.license"))
    return LanguageFiles(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer.content,
        chat_template=template if isinstance(template, str) else None,
        begins=() if tokenizer.bos_token is None else (tokenizer.bos_token,),
        ends=tokenizer.end_tokens,
        adds_bos=tokenizer.adds_bos,
        license=named if isinstance(named, str) else None,
    )


def _config(file: GgufFile, name: str) -> LlamaConfig:
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ImportRefused(
            f"{name} has a network of the architecture {architecture!r}; {', '.join(ARCHITECTURES)} can be imported."
        )

    def of(key: str) -> Any:
        return file.metadata.get(f"{architecture}.{key}")

    if of("expert_count"):
        raise ImportRefused(f"{name} is a mixture of {of('expert_count')} experts; networks without any are computed.")
    config = {ours: of(key) for ours, key in _KEYS.items() if of(key) is not None}
    if "token_embd.weight" not in file.tensors:
        raise ImportRefused(f"{name} has no token_embd.weight: it holds a vocabulary, or is cut short.")
    config |= {"model_type": architecture, "vocab_size": file.tensors["token_embd.weight"].shape[0]}
    config |= {"tie_word_embeddings": "output.weight" not in file.tensors, "rope_scaling": _scaling(of)}
    if "sliding_window" in config and architecture == "llama":
        config["model_type"] = "mistral"
    if _FACTORS in file.tensors:
        config["rope_factors"] = file.tensors[_FACTORS].read().ravel().tolist()
    read = check_config(config, name)
    dimensions = of("rope.dimension_count")
    if dimensions not in (None, read.head_width):
        raise ImportRefused(f"{name} turns {dimensions} of the {read.head_width} numbers of a head; all are turned.")
    return read


def _scaling(of: Any) -> dict[str, Any]:
    keys = {
        "rope_type": "type",
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "attention_factor": "attn_factor",
    }
    scaling = {ours: of(f"rope.scaling.{key}") for ours, key in keys.items() if of(f"rope.scaling.{key}") is not None}
    if scaling.get("rope_type") in (None, "none"):
        return {}
    return scaling


def _name(name: str) -> str:
    """The name in a Hugging Face folder; one that has none there stays, and is refused as any other."""
    found = _NAME.fullmatch(name)
    if found is None or found["part"] not in _NAMES:
        return name
    block = "" if found["layer"] is None else f"model.layers.{found['layer']}."
    return f"{block}{_NAMES[found['part']]}.{found['member']}"


def _tensor(name: str, tensor: GgufTensor, config: LlamaConfig) -> Tensor:
    """Queries and keys of Llama's kind have the numbers that are turned together side by side: they move apart."""
    part = name.split(".")[-2]
    if config.model_type not in ("llama", "mistral") or part not in ("attn_q", "attn_k"):
        return tensor
    num_heads = config.num_attention_heads if part == "attn_q" else config.num_kv_heads
    if tensor.shape[0] % (2 * num_heads):
        return tensor  # of another shape than it must be, which is told of where it is taken

    def read() -> Floats:
        rows = tensor.read()
        pairs = rows.reshape(num_heads, len(rows) // num_heads // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    return DeferredTensor(tensor.shape, read)
