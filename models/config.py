"""The serving configuration of a model, `config.toml` in its folder: versions, batching, queue, instances, cache.

It defines the schema of the file and the version policy.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from models import strict
from models.preprocessing import PreprocessingOptions

CONFIG_FILE = "config.toml"
Priority = Literal["interactive", "normal", "batch"]
PRIORITIES: dict[Priority, int] = {"interactive": 1, "normal": 2, "batch": 3}
"""Priorities as numbers, of which 1 is the best."""
PrecisionSetting = Literal["auto", "fp32", "int8", "int4", "bf16", "fp16"]
DegradedPrecision = Literal["int8", "int4", "bf16", "fp16"]
MAX_THREADS = 1024
"""A sanity limit on instances and on threads."""


class VersionPolicy(strict.Strict, frozen=True, kw_only=True):
    """Which versions are served: the `latest` n that load, all, or specific ones."""

    latest: int | None = None
    all: bool = False
    specific: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.latest is not None) + self.all + bool(self.specific) != 1:
            raise ValueError("version_policy must be one of {latest = n}, 'all' and {specific = [n, ...]}.")
        if self.latest is not None and self.latest < 1:
            raise ValueError(f"latest is {self.latest}; it must be at least 1.")

    def candidates(self, versions: Sequence[str]) -> list[str]:
        """The versions that may be served, in the order of `versions`."""
        specific = {str(version) for version in self.specific}
        return [version for version in versions if not specific or version in specific]

    @property
    def most(self) -> float:
        """The maximum number of versions served at once."""
        return self.latest if self.latest is not None else math.inf


class ModelConfig(strict.Strict, frozen=True, kw_only=True):
    """The settings of one model; None, or 0 for `max_batch_size`, means that of the service or the manifest.

    `request_timeout_seconds` limits the timeout of every request. `latency_objective_seconds` is how long a request, or
    a step of texts, should take: of all models, the one whose answer is due first computes first, and what would take
    longer is refused. `priority` is that of requests which do not say any; of two models that want more than there is,
    one with twice the `weight` has twice as much. Without `warm_up`, only the smallest batch runs before a version is
    ready. Answers in the cache are given to the callers they were
    computed for alone, unless `cache_across_callers`. `batched` says whether requests may share a batch; None leaves it
    to the manifest or, of a graph without one, to trials. `sizes` gives the named open axes of such a graph the sizes
    to try it with; `task`, `labels` (names, or a file beside the graph) and `preprocess` make a classifier of it.

    `precision` names the variant that serves, or leaves it to measuring (`auto`); `max_loss` is what one may lose
    against fp32, in the unit of `models.variants`. `degrade_to` names a variant that computes what the objective leaves
    no time for otherwise.
    """

    version_policy: VersionPolicy = VersionPolicy(latest=1)
    max_batch_size: int = 0
    max_queue_delay_seconds: float | None = None
    max_queue_rows: int | None = None
    instances: int | None = None
    threads: int | None = None
    max_sequences: int | None = None
    idle_unload_seconds: float | None = None
    request_timeout_seconds: float | None = None
    latency_objective_seconds: float | None = None
    priority: Priority = "normal"
    weight: float = 1.0
    cache_bytes: int = 0
    cache_across_callers: bool = False
    warm_up: bool = True
    batched: bool | None = None
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    task: Literal["image-classification", "tensors"] | None = None
    labels: tuple[str, ...] | str = ()
    preprocess: PreprocessingOptions | None = None
    precision: PrecisionSetting | None = None
    max_loss: float | None = None
    degrade_to: DegradedPrecision | None = None

    def __post_init__(self) -> None:
        least = {"max_queue_rows": 1, "instances": 1, "threads": 1, "max_sequences": 1}
        seconds = (
            "max_queue_delay_seconds",
            "request_timeout_seconds",
            "latency_objective_seconds",
            "idle_unload_seconds",
        )
        for name in ("max_batch_size", *seconds, *least, "cache_bytes", "max_loss"):
            value = getattr(self, name)
            if value is not None and not least.get(name, 0) <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be at least {least.get(name, 0)}.")
            if name in ("instances", "threads") and value is not None and value > MAX_THREADS:
                raise ValueError(f"{name} is {value}; it must be at most {MAX_THREADS}.")
        if (wrong := next((size for size in self.sizes.values() if size < 1), None)) is not None:
            raise ValueError(f"sizes holds {wrong}; each must be at least 1.")
        if self.degrade_to is not None and self.latency_objective_seconds is None:
            raise ValueError(f"degrade_to is {self.degrade_to!r}; it needs latency_objective_seconds.")
        if isinstance(self.labels, str):
            strict.require_match(strict.FILE_NAME, self.labels, "labels")
        for name in ("request_timeout_seconds", "latency_objective_seconds", "weight"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0.")

    def overrides(self) -> dict[str, Any]:
        """The service settings that this file overrides, by name."""
        counts = ("max_queue_rows", "instances", "threads", "max_sequences")
        names = ("max_queue_delay_seconds", *counts, "precision", "idle_unload_seconds")
        values = {name: getattr(self, name) for name in names}
        values["max_batch_size"] = self.max_batch_size or None
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return dict(msgspec.to_builtins(self))


def build_config(value: Any) -> ModelConfig:
    """Build the settings of a model from decoded TOML or JSON.

    Raises: StrictError.
    """
    if isinstance(value, dict) and value.get("version_policy") == "all":
        value = value | {"version_policy": {"all": True}}
    if isinstance(value, dict) and isinstance(preset := value.get("preprocess"), str):
        value = value | {"preprocess": {"preset": preset}}
    return strict.build(ModelConfig, value, CONFIG_FILE)


def parse_config(text: str) -> ModelConfig:
    """Parse settings from JSON.

    Raises: StrictError.
    """
    try:
        return build_config(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, strict.StrictError):
            raise
        raise strict.StrictError(f"The configuration is not JSON: {error}.") from error


def read_config(folder: Path) -> ModelConfig:
    """Read `config.toml` in a model's folder; without one, return the defaults.

    Raises: StrictError, OSError.
    """
    try:
        content = (folder / CONFIG_FILE).read_bytes()
    except FileNotFoundError:
        return ModelConfig()
    try:
        return build_config(tomllib.loads(content.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise strict.StrictError(f"{CONFIG_FILE} is not TOML: {error}.") from error
