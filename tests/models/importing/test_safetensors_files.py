"""Weights are read exactly from one file or several, and what is no whole file of floats is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.importing.safetensors_files import INDEX_FILE, read_tensors
from models.importing.sources import ImportRefused
from tests.models.importing.llama_folders import write_safetensors

VALUES = np.array([[1.0, -2.5, 3e-5], [0.0, 65504.0, -0.125]], np.float32)


def test_every_float_becomes_float32(tmp_path: Path) -> None:
    brain = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    tensors: dict[str, NDArray[Any]] = {
        "a": VALUES,
        "b": VALUES.astype(np.float16),
        "c": brain,
        "d": VALUES.astype(np.float64),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors, {"b": "F16", "c": "BF16", "d": "F64"})

    read = {name: tensor.read() for name, tensor in read_tensors(tmp_path).items()}

    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read["a"], VALUES)
    np.testing.assert_array_equal(read["b"], VALUES.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(read["c"].view(np.uint32), VALUES.view(np.uint32) & 0xFFFF0000)
    np.testing.assert_array_equal(read["d"], VALUES)


def test_tensors_are_gathered_from_the_files_of_an_index(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        write_safetensors(tmp_path / f"{name}.safetensors", {name: VALUES * value})
    write_safetensors(tmp_path / "consolidated.safetensors", {"a": VALUES})  # the same weights once more
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))

    tensors = read_tensors(tmp_path)

    assert set(tensors) == {"a", "b"}
    np.testing.assert_array_equal(tensors["b"].read(), VALUES * 2)


def test_a_file_of_the_index_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "model-2-of-2.safetensors"}}))

    with pytest.raises(ImportRefused, match=r"'model-2-of-2.safetensors'.* are missing"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../a.safetensors"}}', "[]", "{", '{"weight_map": []}'])
def test_an_index_that_is_none_or_leads_out_of_the_folder_is_refused(index: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(index)

    with pytest.raises(ImportRefused, match=INDEX_FILE):
        read_tensors(tmp_path)


def test_a_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")

    with pytest.raises(ImportRefused, match=r"'pytorch_model.bin' only, a pickle.*save_pretrained"):
        read_tensors(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(4, np.int8)}, {"a": "I8"})

    with pytest.raises(ImportRefused, match=r"'a' of model\.safetensors is I8; .*Quantised"):
        read_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_safetensors(tmp_path / f"{name}.safetensors", {"same": VALUES})

    with pytest.raises(ImportRefused, match="'same' is in two files"):
        read_tensors(tmp_path)


def entry(offsets: list[int], shape: list[int]) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{{",
        entry([0, 20], [5]),
        entry([0, 16], [5]),
        entry([-4, 12], [4]),
        entry([0, 16], [-2, -2]),
        entry([0, 16], [2**40, 2**40]),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ],
)
def test_a_file_that_is_damaged_or_cut_short_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(ImportRefused, match=r"model\.safetensors is (no safetensors file|a Git LFS pointer)"):
        read_tensors(tmp_path)
