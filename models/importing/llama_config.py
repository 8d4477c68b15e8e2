"""The settings of a Llama-type network: `config.json` of Hugging Face's types llama, mistral, qwen2 and qwen3.

What the graphs cannot compute is refused here, in words. Names and defaults: transformers documentation.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from models.importing.sources import ImportRefused
from models.strict import StrictError, build

CONFIG_FILE = "config.json"
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_MISTRALS_WINDOW = 4096  # what transformers assumes where the file does not say

Size = Annotated[int, Meta(ge=1, le=2**20)]
Factor = Annotated[float, Meta(gt=0)]


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """How positions become angles; `type` is the name of `rope_type` in old files."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Factor | None = None
    factor: Factor = 1.0
    low_freq_factor: Factor = 1.0
    high_freq_factor: Factor = 4.0
    original_max_position_embeddings: Size = 8192
    partial_rotary_factor: float = 1.0


class LlamaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decide what the network computes."""

    model_type: str
    vocab_size: Annotated[int, Meta(ge=2, le=2**22)]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1024)]
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Annotated[int, Meta(ge=2)] = 2048
    hidden_act: str = "silu"
    rms_norm_eps: Factor = 1e-6
    rope_theta: Factor | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    sliding_window: Size | UnsetType | None = UNSET
    use_sliding_window: bool = False
    quantization_config: Any = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_kv_heads:
            raise ValueError(
                f"num_key_value_heads is {self.num_kv_heads}; it must divide the {self.num_attention_heads} heads"
            )
        if self.head_width % 2:
            raise ValueError(f"heads are {self.head_width} wide; rotary positions need an even number")

    @property
    def num_kv_heads(self) -> int:
        """The heads of keys and values; without a number of their own, as many as queries have."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """The size of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def _rope(self) -> Rope:
        return self.rope_parameters or self.rope_scaling or Rope()

    @property
    def rope_type(self) -> str:
        """The name of how angles are scaled; `dynamic` changes nothing within the network's own context."""
        name = self._rope.rope_type or self._rope.type or "default"
        return "default" if name == "dynamic" else name

    def window(self, context: int) -> int | None:
        """The last tokens that each attends to; None for all of the context.

        Raises: ImportRefused where only some layers have a window shorter than the context.
        """
        window = _MISTRALS_WINDOW if self.sliding_window is UNSET else self.sliding_window
        has_window = self.model_type == "mistral" or (self.model_type != "llama" and self.use_sliding_window)
        if not has_window or window is None or window >= context:
            return None
        if self.model_type != "mistral":
            raise ImportRefused(
                f"sliding_window is {window} in some layers of the network; a context of at most {window} "
                f"(--context {window}) is computed without it."
            )
        return window

    def frequencies(self) -> NDArray[np.float64]:
        """By how much each pair of a head's halves turns a position [D/2] (Su et al. 2021; scaling: Llama 3.1)."""
        rope, pairs = self._rope, np.arange(0, self.head_width, 2) / self.head_width
        turns: NDArray[np.float64] = 1.0 / (rope.rope_theta or self.rope_theta or 10_000.0) ** pairs
        if self.rope_type == "linear":
            return turns / rope.factor
        if self.rope_type == "default":
            return turns
        # Slow turns are stretched, fast ones kept, and those between blended.
        low, high = rope.low_freq_factor, rope.high_freq_factor
        times = rope.original_max_position_embeddings * turns / (2 * math.pi)
        share = np.clip((times - low) / (high - low), 0, 1)
        return (1 - share) * turns / rope.factor + share * turns


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is not there.

    Raises: ImportRefused.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ImportRefused(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ImportRefused(f"{path.name} is {type(value).__name__}; it must be a JSON object.")
    return value


def read_config(folder: Path) -> LlamaConfig:
    """Read `config.json`.

    Raises: ImportRefused where it is not valid, or asks for what the graphs do not compute.
    """
    value = read_json(folder / CONFIG_FILE)
    if value.get("model_type") not in MODEL_TYPES:
        raise ImportRefused(
            f"{CONFIG_FILE} names the model type {value.get('model_type')!r}; language models of the types "
            f"{', '.join(MODEL_TYPES)} can be imported. Export others to ONNX (`optimum-cli export onnx`)."
        )
    try:
        config = build(LlamaConfig, value, CONFIG_FILE)
    except StrictError as error:
        raise ImportRefused(str(error)) from error
    _refuse_unknown_arithmetic(config)
    return config


def _refuse_unknown_arithmetic(config: LlamaConfig) -> None:
    partial = min(config.partial_rotary_factor, config._rope.partial_rotary_factor)
    rope = config._rope
    problems = {
        f"hidden_act is {config.hidden_act!r}; silu is computed": config.hidden_act not in ("silu", "swish"),
        f"rope_type is {config.rope_type!r}; default, linear and llama3 are computed": config.rope_type
        not in ("default", "linear", "llama3"),
        f"partial_rotary_factor is {partial}; whole heads are turned": partial != 1.0,
        f"high_freq_factor is {rope.high_freq_factor}; it must exceed low_freq_factor {rope.low_freq_factor}": (
            config.rope_type == "llama3" and rope.high_freq_factor <= rope.low_freq_factor
        ),
        "its weights are quantised (quantization_config); take the repository that they were made from": (
            config.quantization_config is not None
        ),
    }
    for problem, is_found in problems.items():
        if is_found:
            raise ImportRefused(f"The network of {CONFIG_FILE} cannot be imported: {problem}.")
