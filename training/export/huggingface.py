"""Saves a Transformer as a Hugging Face folder that `LlamaForCausalLM` reads, the block being Llama's.

It owns the mapping of names and settings. Layout: transformers documentation (Llama); file: safetensors format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import Tensor

from models.tokenizer import TOKENIZER_FILE
from training.export.language import LanguageModel
from training.networks.transformer import NORM_EPSILON, ROTARY_BASE, Transformer, TransformerShape

WEIGHTS_FILE = "model.safetensors"


def save_llama(network: LanguageModel, tokenizer: Tokenizer, folder: Path, *, begin: int) -> None:
    """Write the folder; `begin` is the token that begins and ends a text.

    Raises: ValueError for a network that is no Transformer, or a tokenizer that does not fit it.
    """
    if not isinstance(network, Transformer):
        raise ValueError(f"the network is {type(network).__name__}; only a Transformer can be saved as Llama.")
    if tokenizer.get_vocab_size() != network.shape.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens; it must have {network.shape.vocab_size}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(llama_tensors(network), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _write_json(folder / "config.json", llama_config(network.shape, begin))
    _write_json(folder / "generation_config.json", {"bos_token_id": begin, "eos_token_id": begin})
    _save_tokenizer(tokenizer, folder, begin, network.shape.context)


def llama_tensors(network: Transformer) -> dict[str, Tensor]:
    """Name the weights as Llama does; joint matrices are split, the tied output matrix is left out."""
    shape = network.shape
    state = {name: tensor.detach().cpu().float() for name, tensor in network.state_dict().items()}
    sizes = [heads * shape.head_width for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)]
    tensors = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": state["norm.weight"]}
    for layer in range(shape.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        # Ours is one matrix for queries, keys and values, and one for gate and value; theirs are five.
        queries, keys, values = state[f"{ours}.attention.qkv.weight"].split(sizes)
        gate, up = state[f"{ours}.feed_forward.gate_up.weight"].chunk(2)
        named = {
            "input_layernorm": state[f"{ours}.attention_norm.weight"],
            "self_attn.q_proj": queries,
            "self_attn.k_proj": keys,
            "self_attn.v_proj": values,
            "self_attn.o_proj": state[f"{ours}.attention.output.weight"],
            "post_attention_layernorm": state[f"{ours}.feed_forward_norm.weight"],
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": state[f"{ours}.feed_forward.down.weight"],
        }
        tensors |= {f"{theirs}.{name}.weight": tensor for name, tensor in named.items()}
    # The file takes no two tensors of one memory.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def llama_config(shape: TransformerShape, begin: int) -> dict[str, Any]:
    """The settings of `LlamaConfig`, under the names of version 5 and, where they differ, those before it."""
    # The same block by other names: no weight is changed, only named and split.
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": shape.context,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROTARY_BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": begin,
        "eos_token_id": begin,
        "pad_token_id": None,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, begin: int, context: int) -> None:
    name = tokenizer.id_to_token(begin)
    begun = Tokenizer.from_str(tokenizer.to_str())
    # Who loads the folder gets prompts as the network was trained on: begun by the token that also ends a text.
    begun.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, begin)]
    )
    begun.save(str(folder / TOKENIZER_FILE))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
