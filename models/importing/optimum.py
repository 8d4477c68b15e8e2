"""What the files beside an exported graph say of it: labels, preprocessing and token ids.

`config.json` and `preprocessor_config.json` as `optimum-cli export onnx` writes them (transformers documentation: image
processors).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.importing.labels import parse_labels
from models.importing.llama_config import CONFIG_FILE, read_json
from models.importing.onnx_graphs import Arrays
from models.importing.sources import ImportRefused
from models.manifest import TensorSpec
from models.preprocessing import PreprocessingOptions
from models.strict import StrictError, build

PREPROCESSOR_FILE = "preprocessor_config.json"
_CLASSIFIER = "ForImageClassification"
_BICUBIC = 3  # PIL's number
_NUM_ROWS, _NUM_TOKENS = 2, 16
# ConvNeXt crops images below this size, and stretches larger ones.
_CROPPED_BELOW = 384


def is_image_classifier(folder: Path) -> bool | None:
    """Whether the network was made to classify images; None where nothing says what it was made for."""
    architectures = read_json(folder / CONFIG_FILE).get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return None
    return str(architectures[0]).endswith(_CLASSIFIER)


def read_id2label(folder: Path) -> tuple[str, ...]:
    """The names of the classes; empty where there are none.

    Raises: ImportRefused.
    """
    named = read_json(folder / CONFIG_FILE).get("id2label")
    try:
        return parse_labels(json.dumps(named)) if named else ()
    except ValueError as error:
        raise ImportRefused(f"id2label of {CONFIG_FILE} cannot be used: {error}") from error


def read_preprocessing(folder: Path) -> PreprocessingOptions:
    """What becomes of an image before the network takes it; nothing where no file says so.

    Raises: ImportRefused.
    """
    config = read_json(folder / PREPROCESSOR_FILE)
    if not config:
        return PreprocessingOptions()
    try:
        said = {"layout": "nchw"} | _normalisation(config) | _resizing(config)
        if "resample" in config:
            said["interpolation"] = "bicubic" if config["resample"] == _BICUBIC else "bilinear"
        if config.get("do_flip_channel_order"):
            said["channels"] = "bgr"
        return build(PreprocessingOptions, said, f"{PREPROCESSOR_FILE} ")
    except (StrictError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ImportRefused(f"{PREPROCESSOR_FILE} cannot be used: {error}") from error


def _normalisation(config: dict[str, Any]) -> dict[str, Any]:
    """Mean and deviation of pixels from 0 to 1, for (pixel * factor - mean) / std of the file."""
    is_normalised = config.get("do_normalize", True)
    if is_normalised and not ("image_mean" in config and "image_std" in config):
        return {}  # the defaults differ from class to class
    factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    mean = np.array(config["image_mean"] if is_normalised else 0.0, np.float64) + offset
    std = np.array(config["image_std"] if is_normalised else 1.0, np.float64)
    scale = 255 * factor
    if max(np.abs(mean / scale).max(), np.abs(std / scale).max()) > 1:
        scale = factor  # numbers above 1 are taken for those of pixels from 0 to 255
    return {name: np.atleast_1d(values / scale).tolist() for name, values in (("mean", mean), ("std", std))}


def _resizing(config: dict[str, Any]) -> dict[str, Any]:
    """The shorter side and the crop; without a crop, the whole image is stretched."""
    height, width, shortest = _sides(config.get("size"))
    if config.get("do_center_crop"):
        crop_height, crop_width, crop = _sides(config.get("crop_size"))
        crop_height, crop_width = crop_height or crop, crop_width or crop
        shorter = (shortest or min(height, width)) if config.get("do_resize", True) else 0
        said = {"size": max(shorter, min(crop_height, crop_width)), "crop": f"{crop_height}x{crop_width}"}
        return said if crop_height else {}
    if not config.get("do_resize", True):
        return {}
    if shortest and "crop_pct" in config and shortest < _CROPPED_BELOW:
        return {"size": int(shortest / float(config["crop_pct"])), "crop": f"{shortest}x{shortest}"}
    return {"size": shortest or (height if height == width else 0), "crop": "none"}


def _sides(size: Any) -> tuple[int, int, int]:
    """Height and width, or the one number that a size is; 0 where it does not say."""
    if isinstance(size, dict):
        return int(size.get("height", 0)), int(size.get("width", 0)), int(size.get("shortest_edge", 0))
    if isinstance(size, list) and len(size) == 2:
        return int(size[0]), int(size[1]), 0
    return 0, 0, int(size or 0)


def sample_inputs(folder: Path, inputs: Sequence[TensorSpec]) -> Arrays | None:
    """Rows that a network of texts can take: any tokens of its vocabulary, all of them attended to.

    None where an input is none that such networks have.
    """
    num_tokens = read_json(folder / CONFIG_FILE).get("vocab_size")
    if not isinstance(num_tokens, int) or num_tokens < 1:
        return None
    random = np.random.default_rng(0)
    rows: Arrays = {}
    for spec in inputs:
        shape = [_NUM_TOKENS if size < 0 else size for size in spec.shape]
        if spec.shape[:1] == (-1,):
            shape[0] = _NUM_ROWS
        if len(shape) != 2 or spec.dtype.kind != "i":
            return None
        rows[spec.name] = _tokens(spec.name, shape, num_tokens, random).astype(spec.dtype)
    return rows


def _tokens(name: str, shape: list[int], num_tokens: int, random: np.random.Generator) -> Any:
    if "mask" in name:
        return np.ones(shape)
    if "type" in name:
        return np.zeros(shape)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[1]), shape)
    return random.integers(0, num_tokens, shape)
