"""Reads the names of classes, however they are written down: a line each, a JSON list, or an object by index."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from models.importing.sources import ImportRefused

LABEL_FILES = ("labels.txt", "labels.json")
_METADATA = ("labels", "names", "classes", "class_names", "id2label")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a file of labels: a line each, a JSON list, `{"0": "cat"}`, or a Hugging Face config with `id2label`.

    Raises: ImportRefused.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportRefused(f"The labels {str(path)!r} cannot be read: {error}.") from error
    try:
        return parse_labels(text)
    except ValueError as error:
        raise ImportRefused(f"The labels {str(path)!r} cannot be used: {error}") from error


def find_labels(folder: Path) -> tuple[str, ...]:
    """The labels beside a graph, in `labels.txt` or `labels.json`; empty without such a file.

    Raises: ImportRefused.
    """
    return next((read_labels(folder / name) for name in LABEL_FILES if (folder / name).is_file()), ())


def labels_in(metadata: dict[str, str]) -> tuple[str, ...]:
    """The labels that the metadata of a graph holds, as some exporters write them; empty where there are none."""
    for key in _METADATA:
        if key in metadata:
            try:
                return parse_labels(metadata[key])
            except ValueError:
                continue
    return ()


def parse_labels(text: str) -> tuple[str, ...]:
    """Parse labels.

    Raises: ValueError.
    """
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        labels = _ordered(_literal(stripped))
    else:
        labels = [line.strip() for line in stripped.splitlines()]
    if not labels or not all(labels):
        empty = next((index for index, label in enumerate(labels) if not label), None)
        raise ValueError("there are none." if empty is None else f"label {empty} is empty.")
    return tuple(labels)


def _literal(text: str) -> Any:
    """JSON, or the Python literal that some lists of ImageNet's classes are."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError("it is neither lines, nor JSON.") from error


def _ordered(value: Any) -> list[str]:
    if isinstance(value, dict) and isinstance(inner := value.get("id2label", value.get("labels")), dict | list):
        value = inner
    if isinstance(value, dict):
        try:
            by_index = {int(key): label for key, label in value.items()}
        except (TypeError, ValueError):
            raise ValueError('the keys of the object must be indices, as in {"0": "cat", "1": "dog"}.') from None
        if sorted(by_index) != list(range(len(by_index))):
            raise ValueError(f"the indices must be 0 to {len(by_index) - 1}, each once.")
        value = [by_index[index] for index in range(len(by_index))]
    if not isinstance(value, list):
        raise ValueError("it must be a list, or an object by index.")
    # ["n01440764", "tench"] is ImageNet's class and its name.
    return [str(label[-1] if isinstance(label, list) and label else label).strip() for label in value]
