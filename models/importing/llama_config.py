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
    original_max_position_embeddings: Size | None = None
    partial_rotary_factor: float = 1.0
    attention_factor: Factor | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None
    truncate: bool = True


class LlamaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decide what the network computes.

    `rope_factors` are what each pair's turn is divided by, in files that say so in full (GGUF).
    """

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
    rope_factors: tuple[Factor, ...] | None = None
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
        if self.rope_factors is not None and len(self.rope_factors) != self.head_width // 2:
            raise ValueError(f"there are {len(self.rope_factors)} factors for {self.head_width // 2} pairs of a head")

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
        turns: NDArray[np.float64] = 1.0 / self._base**pairs
        if self.rope_factors is not None:
            return turns / self.rope_factors
        if self.rope_type == "linear":
            return turns / rope.factor
        if self.rope_type == "default":
            return turns
        # Slow turns are stretched, fast ones kept, and those between blended.
        share = self._kept_by_yarn() if self.rope_type == "yarn" else self._kept_by_llama_3(turns)
        return (1 - share) * turns / rope.factor + share * turns

    @property
    def rope_scale(self) -> float:
        """What turned queries and keys are multiplied by: with YaRN, attention over long texts is sharpened."""
        rope = self._rope
        if self.rope_type != "yarn":
            return 1.0
        if rope.attention_factor is not None:
            return rope.attention_factor
        if rope.mscale and rope.mscale_all_dim:
            return self._sharpening(rope.mscale) / self._sharpening(rope.mscale_all_dim)
        return self._sharpening(1.0)

    def _sharpening(self, scale: float) -> float:
        return 0.1 * scale * math.log(self._rope.factor) + 1.0 if self._rope.factor > 1 else 1.0

    @property
    def _base(self) -> float:
        return self._rope.rope_theta or self.rope_theta or 10_000.0

    def _kept_by_llama_3(self, turns: NDArray[np.float64]) -> NDArray[np.float64]:
        rope = self._rope
        times = (rope.original_max_position_embeddings or 8192) * turns / (2 * math.pi)
        share = (times - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        return np.asarray(np.clip(share, 0, 1), np.float64)

    def _kept_by_yarn(self) -> NDArray[np.float64]:
        """The share of each pair's turn that is kept (Peng et al. 2023, arXiv 2309.00071)."""
        rope, width = self._rope, self.head_width
        length = rope.original_max_position_embeddings or self.max_position_embeddings

        def pair(num_turns: float) -> float:
            """The pair that turns so often over the length."""
            return width * math.log(length / (num_turns * 2 * math.pi)) / (2 * math.log(self._base))

        low, high = pair(rope.beta_fast or 32.0), pair(rope.beta_slow or 1.0)
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        return np.asarray(1 - np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1), np.float64)


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
    return check_config(value, CONFIG_FILE)


def check_config(value: dict[str, Any], file: str) -> LlamaConfig:
    """Check the settings that a file holds.

    Raises: ImportRefused where they are not valid, or ask for what the graphs do not compute.
    """
    try:
        config = build(LlamaConfig, value, file)
    except StrictError as error:
        raise ImportRefused(str(error)) from error
    _refuse_unknown_arithmetic(config, file)
    return config


def _refuse_unknown_arithmetic(config: LlamaConfig, file: str) -> None:
    partial = min(config.partial_rotary_factor, config._rope.partial_rotary_factor)
    rope = config._rope
    problems = {
        f"hidden_act is {config.hidden_act!r}; silu is computed": config.hidden_act not in ("silu", "swish"),
        f"rope_type is {config.rope_type!r}; default, linear, llama3 and yarn are computed": config.rope_type
        not in ("default", "linear", "llama3", "yarn"),
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
            raise ImportRefused(f"The network of {file} cannot be imported: {problem}.")
