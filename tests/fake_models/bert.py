"""A small BERT with random weights, in a folder as Sentence Transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

WIDTH, INNER, NUM_LAYERS, NUM_HEADS, MAX_TOKENS = 24, 32, 2, 3, 40
WORDS = tuple("it was the best of times worst whale call me ishmael a s ##s ##t time , . !".split())  # noqa: SIM905
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "max_position_embeddings": MAX_TOKENS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def wordpiece() -> tokenizers.Tokenizer:
    """A tokenizer as BERT's: lower case, words in pieces, between [CLS] and [SEP]."""
    vocabulary = {name: index for index, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def write_bert(folder: Path, pooling: str = "mean_tokens", **changed: Any) -> Path:
    """Write the folder; `changed` are members of its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece()
    tokenizer.enable_padding(length=MAX_TOKENS)  # as Sentence Transformers leaves it
    tokenizer.save(str(folder / "tokenizer.json"))
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size()} | changed
    (folder / "config.json").write_text(json.dumps(config))
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
        for path in ("", "1_Pooling")
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    save_file(_tensors(tokenizer.get_vocab_size()), folder / "model.safetensors")
    return folder


def _tensors(vocab_size: int) -> dict[str, Any]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocab_size, WIDTH),
        "embeddings.position_embeddings.weight": (MAX_TOKENS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(NUM_LAYERS):
        name = f"encoder.layer.{layer}"
        linear = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH)}
        for part, shape in (linear | {"output.dense": (WIDTH, INNER)}).items():
            shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    tensors: dict[str, Any] = {n: random.normal(0, 0.5, shape).astype(np.float32) for n, shape in shapes.items()}
    return tensors | {"embeddings.position_ids": np.arange(MAX_TOKENS)[None]}
