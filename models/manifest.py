"""What a model version says of itself: graphs, labels, batching, scores, lineage and parity.

It owns the schema of `manifest.json` and the layout of a version folder (`<model>/<version>/manifest.json`, `*.onnx`,
`golden.npz`). It knows neither how a model was trained nor how it is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from models import strict
from models.stylization import Stylization

MANIFEST_FILE = "manifest.json"
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
    "BF16": np.dtype(np.uint16),  # NumPy has no such type: its bits
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TensorSpec(strict.Strict, frozen=True, kw_only=True):
    """One input or output of a graph; the first axis is the batch if the graph is batched, -1 stands for any size."""

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
    """A file of initializers beside the graphs, which several of them may share."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        strict.require_match(strict.FILE_NAME, self.file, "file")
        strict.require_match(_SHA256, self.sha256, "sha256")


class Graph(strict.Strict, frozen=True, kw_only=True):
    """One ONNX file of a version and its signature.

    `max_batch_size` bounds this graph below the version's batching; `max_batch_elements` bounds the elements of its
    inputs in one batch, where rows vary in size (one row is always taken). The tensors of a graph that is not batched
    have no axis for rows: requests are computed one by one.
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
            raise ValueError(
                "is_batched is true, but there are inputs of BYTES, which are computed request by request."
            )
        for name in ("max_batch_size", "max_batch_elements"):
            if (bound := getattr(self, name)) is not None and bound < 1:
                raise ValueError(f"{name} is {bound}; it must be at least 1.")


class StateSpec(strict.Strict, frozen=True, kw_only=True):
    """What a decoder keeps of one sequence; `shape` is one slot's.

    `length_axis` is the axis of `shape` that counts tokens (a key-value cache); None says that the state holds the
    latest token's only (a recurrent network).
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
    """What a text generator's graphs agree on: tokens, the longest sequence, and the state of a slot.

    `context` counts every token of a sequence: the beginning, the prompt and what is generated. `attention_tokens` is
    the fixed length of the graph that explains, 0 without one.
    """

    vocab_size: int
    context: int
    bos_token: int
    eos_token: int
    states: tuple[StateSpec, ...]
    attention_tokens: int = 0

    def __post_init__(self) -> None:
        if self.context < 2:
            raise ValueError(f"context is {self.context}; it must be at least 2.")
        for name, token in (("bos_token", self.bos_token), ("eos_token", self.eos_token)):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} is {token}; it must be at least 0 and below {self.vocab_size}.")
        if not self.states:
            raise ValueError("states is empty; a decoder needs at least one.")


class Batching(strict.Strict, frozen=True, kw_only=True):
    """The largest batch and the batch sizes that are warmed before the version is ready."""

    max_batch_size: int
    buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}; it must be at least 1.")
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1:
            raise ValueError(f"buckets are {list(self.buckets)}; they must be positive and rise.")
        if self.buckets[-1] != self.max_batch_size:
            raise ValueError(f"the last bucket is {self.buckets[-1]}; it must be max_batch_size {self.max_batch_size}.")


class Evaluation(strict.Strict, frozen=True, kw_only=True):
    """One score on one split of one data set."""

    metric: str
    value: float
    dataset: str
    split: str
    count: int


class Training(strict.Strict, frozen=True, kw_only=True):
    """Where the weights come from: enough to train them again."""

    script: str
    config: dict[str, Any]
    seed: int
    dataset_sha256: str
    commit: str
    seconds: float
    device: str
    parameters: int
    libraries: dict[str, str]


class Parity(strict.Strict, frozen=True, kw_only=True):
    """The largest absolute difference between torch and the exported graph, over the batch sizes tried."""

    max_abs_error: float
    batch_sizes: tuple[int, ...]


class Manifest(strict.Strict, frozen=True, kw_only=True):
    """A model version, as `manifest.json` describes it.

    `task` is one that the service knows, or `tensors` for anything else. `light_on_dark` says that the network was
    trained on light objects on black; `margin`, which part of a side its data set leaves free around an object.
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
    stylization: Stylization | None = None
    tokenizer: str | None = None
    language: Language | None = None
    evaluation: tuple[Evaluation, ...] = ()
    training: Training | None = None
    parity: Parity | None = None

    def __post_init__(self) -> None:
        strict.require_match(_NAME, self.name, "name")
        strict.require_match(_VERSION, self.version, "version")
        strict.require_match(_TASK, self.task, "task")
        if not self.graphs:
            raise ValueError("graphs is empty; a version needs at least one.")
        if self.task == "image-classification" and not self.labels:
            raise ValueError("labels are missing; an image classifier needs them.")
        if self.task == "text-generation" and not (self.language and self.tokenizer):
            raise ValueError("language or tokenizer is missing; a text generator needs both.")
        if self.task == "style-transfer" and not self.stylization:
            raise ValueError("stylization is missing; a stylizer needs it.")
        if self.task == "image-generation" and not (self.labels and "decoder" in self.graphs):
            raise ValueError("labels or the graph 'decoder' are missing; an image generator needs both.")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin is {self.margin}; it must be at least 0 and below 0.5.")

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return dict(msgspec.to_builtins(self))


def parse_manifest(text: str | bytes) -> Manifest:
    """Parse `manifest.json`.

    Raises: StrictError when it is not JSON or does not fit the schema.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise strict.StrictError(f"{MANIFEST_FILE} is not JSON: {error}.") from error
    return strict.build(Manifest, value)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the version folder `<model>/<version>`, whose names it must repeat.

    Raises: StrictError, OSError.
    """
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise strict.StrictError(
            f"{MANIFEST_FILE} names {manifest.name!r} version {manifest.version!r}, "
            f"but lies in {folder.parent.name}/{folder.name}."
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a version folder, indented, with sorted keys left as declared."""
    text = json.dumps(manifest.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
