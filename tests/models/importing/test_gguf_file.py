"""GGUF files are read as llama.cpp's own package reads them, and damaged ones are refused in words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

from models.importing.gguf_file import read_gguf_file
from models.importing.sources import ImportRefused

KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def written(path: Path, **tensors: tuple[np.ndarray, GGMLQuantizationType]) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_array("numbers", [3, 1, 2])
    writer.add_array("texts", ["a", "é"])
    for name, (tensor, kind) in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", KINDS)
def test_blocks_become_the_numbers_that_llama_cpp_reads(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    num_elements, num_bytes = GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (6, 512 // num_elements, num_bytes), np.uint8)
    # Any levels, but usual scales: random float16 may be no numbers.
    scales = {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2), "F16": (0,), "BF16": ()}
    for place in scales.get(name, (0,)):
        halves = random.normal(0, 0.1, blocks.shape[:2]).astype(np.float16)
        blocks[..., place : place + 2] = halves[..., None].view(np.uint8)
    if name == "BF16":
        blocks[..., 1] &= 0xBF
    rows = blocks.reshape(6, -1)

    read = read_gguf_file(written(tmp_path / "a.gguf", first=(rows[:1], kind), second=(rows, kind))).tensors["second"]

    assert (read.kind, read.shape) == (name, (6, 512))
    np.testing.assert_array_equal(read.read(), quants.dequantize(rows, kind))


def test_metadata_comes_with_its_types(tmp_path: Path) -> None:
    file = read_gguf_file(written(tmp_path / "a.gguf"))

    assert file.metadata["general.architecture"] == "llama"
    assert (file.metadata["numbers"], file.metadata["texts"]) == ([3, 1, 2], ["a", "é"])


@pytest.mark.parametrize("size", [0, 3, 4, 20, 30, 60, 100, -40])
def test_a_file_that_is_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    rows = np.zeros((2, 34), np.uint8)
    path = written(tmp_path / "a.gguf", first=(rows, GGMLQuantizationType.Q8_0))
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(ImportRefused, match=r"a\.gguf is no GGUF file, or is cut short"):
        read_gguf_file(path)


@pytest.mark.parametrize("at", [8, 16, 24])
def test_numbers_that_the_file_cannot_hold_are_refused_before_anything_is_built(at: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf")
    content = bytearray(path.read_bytes())
    content[at : at + 8] = struct.pack("<Q", 2**62)
    path.write_bytes(bytes(content))

    with pytest.raises(ImportRefused, match="cut short"):
        read_gguf_file(path)


def test_a_type_that_is_not_read_is_named_with_those_that_are(tmp_path: Path) -> None:
    kind = GGMLQuantizationType.Q2_K
    path = written(tmp_path / "a.gguf", weight=(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind))

    with pytest.raises(ImportRefused, match=r"'weight' of a\.gguf is Q2_K; F32, .*Q8_0"):
        read_gguf_file(path)


def test_another_version_and_a_part_of_several_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", 1) + content[8:])
    with pytest.raises(ImportRefused, match="version 1"):
        read_gguf_file(path)

    writer = GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ImportRefused, match="one of 3 parts"):
        read_gguf_file(tmp_path / "b.gguf")
