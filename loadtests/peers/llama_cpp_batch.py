"""llama.cpp as a peer, by llama-cpp-python's low-level calls: all prompts of a job are sequences of one batch.

The GGUF file is written here from the Hugging Face folder, with llama.cpp's names and order of rows: in float32, or
with its matrices in Q8_0.
Source: llama-cpp-python 0.3.36, llama.h; the GGUF specification and llama.cpp's converter.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.peers.protocol import Generate, TextAnswer, TextJob, serve_texts

_MAX_SEQUENCES, _MAX_TOKENS = 32, 256


class Sequences:
    """A context of 32 sequences, whose next tokens are computed together."""

    def __init__(self, api: Any, model: Any, threads: int) -> None:
        """Make the context."""
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = _MAX_SEQUENCES * _MAX_TOKENS, _MAX_SEQUENCES
        settings.n_batch = settings.n_ubatch = _MAX_SEQUENCES * 64
        settings.n_threads = settings.n_threads_batch = threads
        self._api = api
        self._context = api.llama_init_from_model(model, settings)
        self._batch = api.llama_batch_init(settings.n_batch, 0, 1)
        self._vocab_size: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def clear(self) -> None:
        """Forget every sequence."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def advance(self, rows: list[list[int]], start: int) -> list[int]:
        """Read as many tokens of each sequence, which are its tokens from `start` on; returns the likeliest next."""
        batch, wanted, count = self._batch, [], 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[count], batch.pos[count] = token, start + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                batch.logits[count] = is_last = offset == len(row) - 1
                if is_last:
                    wanted.append(count)
                count += 1
        batch.n_tokens = count
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}.")
        return [int(np.argmax(self._logits(place))) for place in wanted]

    def _logits(self, place: int) -> Any:
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, place), (self._vocab_size,))


def load(source: Path, file: Path, threads: int, precision: str) -> Generate:
    """Open the model."""
    import llama_cpp  # type: ignore[import-not-found,unused-ignore]

    if not file.is_file():
        write_gguf(source, file, precision)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot read {file.name}.")
    sequences = Sequences(llama_cpp, model, threads)

    def generate(job: TextJob) -> TextAnswer:
        started = time.perf_counter()
        sequences.clear()
        rows, start = job.prompts, 0
        tokens: list[list[int]] = [[] for _ in rows]
        times: list[float] = []
        for _ in range(job.num_tokens):
            found = sequences.advance(rows, start)
            times.append(time.perf_counter() - started)
            for row, token in zip(tokens, found, strict=True):
                row.append(token)
            start += len(rows[0])
            rows = [[token] for token in found]
        return TextAnswer(tokens, [times] * len(tokens))

    return generate


_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
# llama.cpp's kinds of tokens: an ordinary one, and one that stands for no text.
_NORMAL, _CONTROL = 1, 3


def gguf_name(name: str) -> str:
    """The name in GGUF of a Hugging Face tensor.

    Raises: KeyError when it is no tensor of a Llama.
    """
    match = _LAYER.fullmatch(name)
    if match:
        return f"blk.{match[1]}.{_NAMES[match[2]]}.weight"
    outer = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    return f"{outer[name]}.weight"


def interleave(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Reorder the rows of queries or keys: a pair that is rotated together lies side by side, not half a head apart."""
    head_width = len(weight) // num_heads
    halves = weight.reshape(num_heads, 2, head_width // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def read_safetensors(file: Path) -> dict[str, NDArray[np.float32]]:
    """Read a safetensors file of float32 tensors: length of the header, header, raw values."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}; it must be F32.")
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(content[first:last], "<f4").reshape(entry["shape"])
    return tensors


def write_gguf(source: Path, file: Path, precision: str = "fp32") -> None:
    """Write the model of a Hugging Face folder, in `fp32` or `q8_0`."""
    import gguf  # type: ignore[import-not-found,unused-ignore]

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // num_heads)
    writer.add_rope_freq_base(_rope_base(config))
    writer.add_vocab_size(config["vocab_size"])
    is_rounded = precision == "q8_0"
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if is_rounded else gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), config)
    for name, tensor in read_safetensors(source / "model.safetensors").items():
        heads = {"attn_q": num_heads, "attn_k": num_kv_heads}.get(gguf_name(name).split(".")[-2])
        ordered = interleave(tensor, heads) if heads else tensor
        kind = gguf.GGMLQuantizationType.Q8_0 if is_rounded and ordered.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(ordered, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_base(config: dict[str, Any]) -> float:
    parameters = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or parameters.get("rope_theta") or 10_000.0)


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """The benchmark hands over token ids; the vocabulary is there because llama.cpp reads no model without one."""
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    special = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    vocabulary |= special
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"].get("merges", [])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


if __name__ == "__main__":
    serve_texts(
        lambda source, scratch, threads, precision: load(source, scratch / f"{precision}.gguf", threads, precision),
        __doc__,
        ("fp32", "q8_0"),
    )
