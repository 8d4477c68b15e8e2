"""A file that is no network in ONNX is called what it is, with what to do about it."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from service.engine.repository.model_file import file_fault
from tests.fake_models.bare_graphs import scale_bytes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return content.getvalue()


KINDS = [
    (b"", "is empty"),
    (POINTER, "is a Git LFS pointer, not the model: run `git lfs pull`"),
    (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    (b"\n<HTML lang=en>", "is a web page"),
    (b"\xef\xbb\xbf<html>", "is a web page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    (scale_bytes(2)[:-40], "ends too early"),
    (scale_bytes(2)[: len(scale_bytes(2)) // 2], "ends too early"),
    (zipped("archive/data.pkl", "archive/data/0"), "torch.save"),
    (zipped("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"), "TorchScript"),
    (zipped("net/models/model.json", "net/serialized_exported_program.json"), "torch.export"),
    (zipped("config.json", "model.weights.h5"), "Keras"),
    (zipped("net/model.onnx"), "unpack it"),
    (zipped("x")[:30], "a damaged zip archive"),
    (pickle.dumps({"weights": [1.0]}, protocol=2), "a pickle of Python"),
    (struct.pack("<Q", 40) + b'{"w":{"dtype":"F32"}}' + bytes(40), "a safetensors file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(20), "Keras"),
    (b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite"),
    (b"GGUF\x03\0\0\0", "GGUF"),
    (gzip.compress(scale_bytes(2)), "gzip"),
]


@pytest.mark.parametrize(("content", "kind"), KINDS, ids=[kind for _, kind in KINDS])
def test_what_is_no_network_is_called_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    fault = file_fault(tmp_path / "model.onnx")

    assert fault.startswith("model.onnx ")
    assert kind in fault


@pytest.mark.parametrize("content", [scale_bytes(2), b"no graph", b"broken", b"\x18\0\0\0ORTM" + bytes(8)])
def test_what_may_be_a_network_is_left_to_the_runtime(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    assert file_fault(tmp_path / "model.onnx") == ""
