"""`hotplate import` of a Hugging Face folder: a language model, or a graph with the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.golden import read_golden
from models.manifest import read_manifest
from tests.fake_models.tokenizers import byte_level
from tests.models.importing.gguf_files import write_gguf
from tests.models.importing.llama_folders import CONFIG, llama_weights, write_llama
from tests.service.cli.command import run

PICTURE = Path(__file__).resolve().parents[2] / "data" / "ship.jpg"
PREPROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
    "rescale_factor": 1 / 255,
    "size": {"height": 16, "width": 16},
    "resample": 2,
}


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Any], **weights: NDArray[Any]) -> None:
    """Write a graph as optimum does: every axis of an input is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {TensorProto.FLOAT: ("batch", "channels", "height", "width"), TensorProto.INT64: ("batch", "sequence")}
    values = [helper.make_tensor_value_info(name, kind, axes[kind]) for name, kind in inputs.items()]
    results = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "exported", values, results, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def vision(folder: Path) -> Path:
    """A classifier of three kinds: a convolution, a mean over the picture, a linear layer."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["pixel_values", "kernel"], ["convolved"]),
        helper.make_node("ReduceMean", ["convolved"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["pooled", "linear"], ["logits"]),
    ]
    kernel = random.normal(size=(4, 3, 2, 2)).astype(np.float32)
    linear = random.normal(size=(4, 3)).astype(np.float32)
    save(folder / "onnx/model.onnx", nodes, {"pixel_values": TensorProto.FLOAT}, kernel=kernel, linear=linear)
    labels = {"0": "cat", "1": "dog", "2": "ship"}
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "id2label": labels}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def text(folder: Path) -> Path:
    """A network of texts: a table of 5 tokens, averaged over those that are attended to."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["kept"]),
        helper.make_node("ReduceMean", ["kept"], ["logits"], axes=[1], keepdims=0),
    ]
    table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    inputs = {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}
    save(folder / "model.onnx", nodes, inputs, table=table, last=np.array([-1]))
    config = {"architectures": ["BertForSequenceClassification"], "vocab_size": 5, "id2label": {"0": "a"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_language_model_becomes_a_version_that_passes_its_check(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tiny")

    ran = run("import", folder, "--name", "tiny", "--repository", tmp_path / "models", "--context", 40)

    assert ran.exit_code == 0, ran.output
    assert "a context of 40" in ran.output
    assert "memory when served: about" in ran.output
    assert "/v1/models/tiny/generate" in ran.output
    manifest = read_manifest(tmp_path / "models" / "tiny" / "1")
    assert manifest.language is not None
    assert manifest.language.context == 40


def test_a_refused_language_model_leaves_nothing(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tiny", hidden_act="relu")

    ran = run("import", folder, "--name", "tiny", "--repository", tmp_path / "models")

    assert ran.exit_code == 1
    assert "hidden_act is 'relu'" in ran.output
    assert not list((tmp_path / "models").glob("*"))


def test_an_exported_classifier_needs_no_options(tmp_path: Path) -> None:
    folder = vision(tmp_path / "kinds")

    ran = run("import", folder, "--name", "kinds", "--repository", tmp_path / "models", "--try", PICTURE)

    assert ran.exit_code == 0, ran.output
    assert "guessed" not in ran.output
    manifest = read_manifest(tmp_path / "models" / "kinds" / "1")
    assert manifest.labels == ("cat", "dog", "ship")
    assert manifest.preprocess is not None
    assert (manifest.preprocess.mean, manifest.preprocess.resize) == ((0.5, 0.4, 0.3), 0)
    assert manifest.graphs["model"].inputs[0].row_shape == (16, 16, 3)
    assert manifest.source is not None
    assert (manifest.source.origin, manifest.source.license) == ("kinds", "apache-2.0")


def test_the_command_line_comes_before_the_files(tmp_path: Path) -> None:
    folder, labels = vision(tmp_path / "kinds"), tmp_path / "names.txt"
    labels.write_text("chat\nchien\nbateau\n")
    said = ("--labels", labels, "--preprocess", "0-1", "--crop", 16, "--layout", "nchw")

    ran = run("import", folder, "--name", "kinds", "--repository", tmp_path / "models", *said)

    assert ran.exit_code == 0, ran.output
    manifest = read_manifest(tmp_path / "models" / "kinds" / "1")
    assert manifest.labels == ("chat", "chien", "bateau")
    assert manifest.preprocess is not None
    assert manifest.preprocess.mean == ()


def test_a_network_of_texts_is_imported_as_tensors_and_verified_with_tokens_that_it_has(tmp_path: Path) -> None:
    folder = text(tmp_path / "moods")

    ran = run("import", folder, "--name", "moods", "--repository", tmp_path / "models")

    assert ran.exit_code == 0, ran.output
    version = tmp_path / "models" / "moods" / "1"
    assert read_manifest(version).task == "tensors"
    assert set(read_golden(version)["model"].inputs["input_ids"].ravel()) <= set(range(5))


def test_a_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    ran = run("import", folder, "--name", "tiny", "--repository", tmp_path / "models")

    assert ran.exit_code == 1
    assert "a pickle, which may run code" in ran.output


def test_a_gguf_file_becomes_a_version_that_passes_its_check_by_itself_or_in_a_folder(tmp_path: Path) -> None:
    weights = llama_weights(CONFIG, (), False)
    kind = GGMLQuantizationType.Q8_0
    folder = tmp_path / "quantised"
    folder.mkdir()
    path = write_gguf(folder / "tiny-Q8_0.gguf", CONFIG, weights, byte_level(), kind)

    for number, source in enumerate((path, folder), 1):
        ran = run("import", source, "--name", "tiny", "--repository", tmp_path / "models")
        assert ran.exit_code == 0, ran.output
        manifest = read_manifest(tmp_path / "models" / "tiny" / str(number))
        assert manifest.task == "text-generation"
        assert manifest.source is not None
        assert manifest.source.license == "mit"
    assert (tmp_path / "models" / "tiny" / "1" / "tokenizer.json").is_file()


def test_one_of_several_gguf_files_is_named(tmp_path: Path) -> None:
    weights = llama_weights(CONFIG, (), False)
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name, CONFIG, weights, byte_level())

    refused = run("import", tmp_path, "--name", "tiny", "--repository", tmp_path / "models")
    ran = run("import", tmp_path, "--name", "tiny", "--repository", tmp_path / "models", "--file", "b.gguf")

    assert "2 GGUF files; name one with --file: a.gguf, b.gguf" in refused.output
    assert ran.exit_code == 0, ran.output


def test_a_language_model_is_written_in_int8_and_int4_too_and_told_what_they_lose(tmp_path: Path) -> None:
    folder, text_file = write_llama(tmp_path / "tiny"), tmp_path / "mine.txt"
    text_file.write_text("It was the best of times, it was the worst of times. " * 8)
    said = ("--quantize", "--int4", "--calibration", text_file)

    ran = run("import", folder, "--name", "tiny", "--repository", tmp_path / "models", *said)

    assert ran.exit_code == 0, ran.output
    assert "int8: " in ran.output
    assert "tokens of mine.txt: perplexity" in ran.output
    manifest = read_manifest(tmp_path / "models" / "tiny" / "1")
    assert [variant.precision for variant in manifest.variants] == ["int8", "int4"]
    assert {each.dataset for each in manifest.evaluation} == {"mine.txt"}
