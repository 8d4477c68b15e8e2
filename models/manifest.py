"""The manifest of a model version: graphs and their variants, labels, batching, scores, provenance and parity.

It defines the schema of `manifest.json` and the layout of a version folder: `<model>/<version>/manifest.json`,
`*.onnx`, `golden.npz`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import strict
from models.preprocessing import Preprocessing
from models.stylization import Stylization

MANIFEST_FILE = "manifest.json"
BLEND_GRAPH = "blend"
"""An image generator's graph that takes the weights of labels in place of a label, where it has one."""
GOLDEN_FILE = "golden.npz"

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
    "BYTES",
]

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),  # NumPy has no bfloat16: its bits
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers of a BF16 tensor, of which there are the bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


ONNX_DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
}
"""The datatypes by ONNX's names of tensors' types."""

Precision = Literal["fp32", "int8", "int4", "bf16", "fp16"]

_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TensorSpec(strict.Strict, frozen=True, kw_only=True):
    """One input or output of a graph. The first axis of a batched graph is the batch; -1 is any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of the tensor."""
        return NUMPY_DTYPES[self.datatype]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, without the batch axis."""
        return self.shape[1:]


class Weights(strict.Strict, frozen=True, kw_only=True):
    """A file of initializers that graphs may share."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        strict.require_match(strict.FILE_NAME, self.file, "file")
        strict.require_match(_SHA256, self.sha256, "sha256")


class Graph(strict.Strict, frozen=True, kw_only=True):
    """One ONNX file of a version and its signature.

    `max_batch_size` limits the batches of this graph below those of the version; `max_batch_elements` limits the input
    elements of a batch if rows vary in size (a single row always fits). A graph that is not batched has no batch axis:
    requests run one by one.
    """

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Weights | None = None
    max_batch_size: int | None = None
    max_batch_elements: int | None = None
    is_batched: bool = True

    def __post_init__(self) -> None:
        strict.require_match(strict.FILE_NAME, self.file, "file")
        strict.require_match(_SHA256, self.sha256, "sha256")
        if self.is_batched and any(spec.datatype == "BYTES" for spec in self.inputs):
            raise ValueError("is_batched is true, but BYTES inputs cannot be batched.")
        for name in ("max_batch_size", "max_batch_elements"):
            if (bound := getattr(self, name)) is not None and bound < 1:
                raise ValueError(f"{name} is {bound}; it must be at least 1.")


class StateSpec(strict.Strict, frozen=True, kw_only=True):
    """The state that a decoder keeps for one sequence; `shape` is that of one slot.

    `length_axis` is the axis of `shape` that counts tokens (a key-value cache); None means that the state does not grow
    (a recurrent network).
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    length_axis: int | None = None

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape):
            raise ValueError(f"the state {self.name!r} has the shape {list(self.shape)}; every size must be positive.")
        if self.length_axis is not None and not 0 <= self.length_axis < len(self.shape):
            raise ValueError(f"length_axis is {self.length_axis}; the state {self.name!r} has {len(self.shape)} axes.")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of the state."""
        return NUMPY_DTYPES[self.datatype]


class Language(strict.Strict, frozen=True, kw_only=True):
    """What the graphs of a language model share: vocabulary, context, special tokens and the state of a slot.

    `context` counts all tokens of a sequence: BOS, the prompt and the generated ones. `attention_tokens` is the fixed
    length of the graph `attention`, 0 without one. `stop_tokens` end a text as `eos_token` does: the end of a turn.
    `adds_bos` says whether every text begins with `bos_token`; without it, one of no tokens does.
    """

    vocab_size: int
    context: int
    bos_token: int
    eos_token: int
    states: tuple[StateSpec, ...]
    attention_tokens: int = 0
    stop_tokens: tuple[int, ...] = ()
    adds_bos: bool = True

    def __post_init__(self) -> None:
        if self.context < 2:
            raise ValueError(f"context is {self.context}; it must be at least 2.")
        named = [("bos_token", self.bos_token), ("eos_token", self.eos_token)]
        for name, token in (*named, *(("a stop token", token) for token in self.stop_tokens)):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} is {token}; it must be at least 0 and below {self.vocab_size}.")
        if not self.states:
            raise ValueError("states is empty; a decoder needs at least one.")

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text."""
        return frozenset((self.eos_token, *self.stop_tokens))


class TextEncoding(strict.Strict, frozen=True, kw_only=True):
    """How an encoder or corrector takes texts: at most `max_tokens` tokens, those that begin and end one included.

    Tokens that are `unknown_token` are left out, where one is named.
    """

    vocab_size: int
    max_tokens: int
    begin_tokens: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()
    unknown_token: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens <= len(self.begin_tokens) + len(self.end_tokens):
            raise ValueError(f"max_tokens is {self.max_tokens}; it must leave room for a text.")
        for token in (*self.begin_tokens, *self.end_tokens, self.unknown_token or 0):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"a token is {token}; it must be at least 0 and below {self.vocab_size}.")


class Batching(strict.Strict, frozen=True, kw_only=True):
    """The largest batch, and the batch sizes that are warmed up before the version is ready."""

    max_batch_size: int
    buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}; it must be at least 1.")
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1:
            raise ValueError(f"buckets are {list(self.buckets)}; they must be positive and ascending.")
        if self.buckets[-1] != self.max_batch_size:
            raise ValueError(f"the last bucket is {self.buckets[-1]}; it must be max_batch_size {self.max_batch_size}.")


class Evaluation(strict.Strict, frozen=True, kw_only=True):
    """A score on a split of a data set."""

    metric: str
    value: float
    dataset: str
    split: str
    count: int


class VariantGraph(strict.Strict, frozen=True, kw_only=True):
    """A graph in another precision: the signature is that of the graph.

    `max_abs_error` is the largest difference from fp32 on the test set, by output. `weights` is a file of initializers
    beside that of the graph in fp32, which it may use as well.
    """

    file: str
    sha256: str
    max_abs_error: dict[str, float]
    weights: Weights | None = None

    def __post_init__(self) -> None:
        strict.require_match(strict.FILE_NAME, self.file, "file")
        strict.require_match(_SHA256, self.sha256, "sha256")
        for output, error in self.max_abs_error.items():
            if not 0 <= error < math.inf:
                raise ValueError(f"max_abs_error of {output!r} is {error}; it must be at least 0 and finite.")


class Agreement(strict.Strict, frozen=True, kw_only=True):
    """How a variant's outputs agree with those of fp32 on the same inputs.

    `same_label` is the share of the rows with the same likeliest label, `same_token` that of the tokens after which the
    same one is likeliest; `psnr` is in decibels.
    """

    metric: Literal["same_label", "same_token", "psnr"]
    value: float
    dataset: str
    split: str
    count: int


class Calibration(strict.Strict, frozen=True, kw_only=True):
    """What the ranges of a quantised graph were measured on, and how."""

    dataset: str
    split: str
    count: int
    method: str


class Variant(strict.Strict, frozen=True, kw_only=True):
    """A version's graphs in another precision; those that it does not name stay in fp32.

    `evaluation` has its scores on the data of the version's own; without a score it is never chosen by `auto`.
    `fp32_layers` were left in fp32, as they lose too much.
    """

    precision: Precision
    graphs: dict[str, VariantGraph]
    evaluation: tuple[Evaluation, ...] = ()
    agreement: Agreement | None = None
    calibration: Calibration | None = None
    fp32_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.precision == "fp32":
            raise ValueError("a variant's precision is 'fp32'; that is the version itself.")
        if not self.graphs:
            raise ValueError(f"graphs of the variant {self.precision!r} is empty; it needs at least one.")


class Training(strict.Strict, frozen=True, kw_only=True):
    """Provenance of the weights: enough to train them again."""

    script: str
    config: dict[str, Any]
    seed: int
    dataset_sha256: str
    commit: str
    seconds: float
    device: str
    parameters: int
    libraries: dict[str, str]


class Source(strict.Strict, frozen=True, kw_only=True):
    """Where an imported version comes from: a file, a folder or a repository, its commit and its licence if known."""

    origin: str
    commit: str | None = None
    license: str | None = None
    parameters: int | None = None


class Parity(strict.Strict, frozen=True, kw_only=True):
    """The largest absolute difference between torch and the exported graph, over several batch sizes."""

    max_abs_error: float
    batch_sizes: tuple[int, ...]


class Novelty(strict.Strict, frozen=True, kw_only=True):
    """How a classifier's output `novelty` is calibrated: the share `quantile` of the held-out images is at most 1.

    `test_share` is the share of the test images that exceed 1.
    """

    measure: str
    quantile: float
    num_held_out: int
    test_share: float


class Manifest(strict.Strict, frozen=True, kw_only=True):
    """The contents of `manifest.json`.

    `task` is the name of a task of the service, or `tensors` for any other graph. With `light_on_dark`, the network was
    trained on light objects on black; `margin` is the fraction of a side that its data set leaves free around them.
    `preprocess` says how an imported classifier gets its images; without it, they fill the input. `chat_template` is
    the file, in Jinja, that writes a conversation as a text.
    """

    name: str
    version: str
    task: str
    description: str
    graphs: dict[str, Graph]
    batching: Batching
    labels: tuple[str, ...] | None = None
    light_on_dark: bool = False
    margin: float = 0.0
    preprocess: Preprocessing | None = None
    stylization: Stylization | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    language: Language | None = None
    text: TextEncoding | None = None
    evaluation: tuple[Evaluation, ...] = ()
    training: Training | None = None
    parity: Parity | None = None
    source: Source | None = None
    novelty: Novelty | None = None
    variants: tuple[Variant, ...] = ()

    def __post_init__(self) -> None:
        strict.require_match(MODEL_NAME, self.name, "name")
        strict.require_match(VERSION, self.version, "version")
        strict.require_match(_TASK, self.task, "task")
        if not self.graphs:
            raise ValueError("graphs is empty; a version needs at least one.")
        if self.task == "image-classification" and not self.labels:
            raise ValueError("labels are missing; an image classifier requires them.")
        if self.task == "text-generation" and not (self.language and self.tokenizer):
            raise ValueError("language or tokenizer is missing; a language model requires both.")
        if self.task in ("text-embedding", "text-correction") and not (self.text and self.tokenizer):
            raise ValueError("text or tokenizer is missing; what encodes or corrects texts requires both.")
        if self.task == "style-transfer" and not self.stylization:
            raise ValueError("stylization is missing; a stylizer requires it.")
        if self.task == "image-generation" and not (self.labels and "decoder" in self.graphs):
            raise ValueError("labels or the graph 'decoder' are missing; an image generator requires both.")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin is {self.margin}; it must be at least 0 and below 0.5.")
        self._check_variants()

    def with_variant(self, variant: Variant) -> Manifest:
        """This manifest with a variant, in the place of one of the same precision."""
        others = (each for each in self.variants if each.precision != variant.precision)
        return msgspec.structs.replace(self, variants=(*others, variant))

    def _check_variants(self) -> None:
        precisions = [variant.precision for variant in self.variants]
        if len(set(precisions)) < len(precisions):
            raise ValueError(f"variants have the precisions {precisions}; each may be there once.")
        for variant in self.variants:
            if self.language and not {"decode", "prefill"} <= variant.graphs.keys():
                raise ValueError(f"the variant {variant.precision!r} lacks 'decode' or 'prefill'; texts need both.")
            for name, graph in variant.graphs.items():
                where = f"the variant {variant.precision!r}"
                if name not in self.graphs:
                    raise ValueError(f"{where} has the graph {name!r}; the version has {sorted(self.graphs)}.")
                states = {f"next_{state.name}" for state in self.language.states} if self.language else set()
                outputs = sorted({spec.name for spec in self.graphs[name].outputs} - states)
                if sorted(graph.max_abs_error) != outputs:
                    raise ValueError(f"max_abs_error of {where} names {sorted(graph.max_abs_error)}, not {outputs}.")

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return dict(msgspec.to_builtins(self))


def parse_manifest(text: str | bytes) -> Manifest:
    """Parse `manifest.json`.

    Raises: StrictError if it is not JSON or does not match the schema.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise strict.StrictError(f"{MANIFEST_FILE} is not JSON: {error}.") from error
    return strict.build(Manifest, value)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the version folder `<model>/<version>` and check that the names match.

    Raises: StrictError, OSError.
    """
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise strict.StrictError(
            f"{MANIFEST_FILE} names {manifest.name!r} version {manifest.version!r}, "
            f"but its folder is {folder.parent.name}/{folder.name}."
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` to a version folder."""
    text = json.dumps(manifest.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
