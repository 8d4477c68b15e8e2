"""Manifests survive a round trip; those that do not match the schema are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.manifest import (
    MANIFEST_FILE,
    NUMPY_DTYPES,
    Agreement,
    Batching,
    Calibration,
    Evaluation,
    Graph,
    Manifest,
    Parity,
    TensorSpec,
    Training,
    Variant,
    VariantGraph,
    parse_manifest,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from models.strict import StrictError

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, 28, 28, 1))
PROBABILITIES = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2))
GRAPH = Graph(file="model.onnx", sha256="0" * 64, inputs=(IMAGE,), outputs=(PROBABILITIES,))
MANIFEST = Manifest(
    name="shoes",
    version="3",
    task="image-classification",
    description="Bottes et chaussures: à pied.",
    graphs={"model": GRAPH},
    batching=Batching(max_batch_size=4, buckets=(1, 2, 4)),
    labels=("boot", "shoe"),
    light_on_dark=True,
    evaluation=(Evaluation(metric="accuracy", value=0.5, dataset="shoes", split="test", count=2),),
    training=Training(
        script="training.train_classifier",
        config={"epochs": 1, "rates": [0.1, None]},
        seed=1,
        dataset_sha256="f" * 64,
        commit="abc",
        seconds=1.5,
        device="cpu",
        parameters=10,
        libraries={"torch": "2"},
    ),
    parity=Parity(max_abs_error=1e-6, batch_sizes=(1, 2)),
)


VARIANT = Variant(
    precision="int8",
    graphs={"model": VariantGraph(file="model.int8.onnx", sha256="1" * 64, max_abs_error={"probabilities": 0.25})},
    evaluation=(Evaluation(metric="accuracy", value=0.5, dataset="shoes", split="test", count=2),),
    agreement=Agreement(metric="same_label", value=1.0, dataset="shoes", split="test", count=2),
    calibration=Calibration(dataset="shoes", split="held-out", count=3, method="least and largest"),
    fp32_layers=("first",),
)


def changed_variant(**members: Any) -> str:
    return changed(variants=[msgspec.to_builtins(VARIANT) | members])


def changed(**members: Any) -> str:
    return json.dumps(MANIFEST.to_json() | members)


def changed_graph(**members: Any) -> str:
    return changed(graphs={"model": msgspec.to_builtins(GRAPH) | members})


def test_a_manifest_survives_a_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "shoes" / "3"
    folder.mkdir(parents=True)
    write_manifest(folder, MANIFEST)
    assert read_manifest(folder) == MANIFEST
    assert "à pied" in (folder / MANIFEST_FILE).read_text(encoding="utf-8")


def test_variants_survive_a_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "shoes" / "3"
    folder.mkdir(parents=True)
    with_variant = msgspec.structs.replace(MANIFEST, variants=(VARIANT,))
    write_manifest(folder, with_variant)
    assert read_manifest(folder) == with_variant


def test_a_manifest_of_before_there_were_variants_has_none() -> None:
    former = MANIFEST.to_json()
    del former["variants"]
    assert parse_manifest(json.dumps(former)) == MANIFEST
    assert MANIFEST.variants == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed_variant(precision="int2"), "value 'int2'; valid are bf16, fp16, fp32, int4, int8"),
        (changed_variant(precision="fp32"), "precision is 'fp32'; that is the version itself"),
        (changed_variant(graphs={}), "graphs of the variant 'int8' is empty"),
        (changed_variant(bits=8), "unknown field `bits`; known are precision, graphs"),
        (
            changed_variant(graphs={"other": msgspec.to_builtins(VARIANT.graphs["model"])}),
            r"has the graph 'other'; the version has \['model'\]",
        ),
        (
            changed_variant(graphs={"model": msgspec.to_builtins(VARIANT.graphs["model"]) | {"max_abs_error": {}}}),
            r"names \[\], not \['probabilities'\]",
        ),
        (
            changed_variant(
                graphs={"model": msgspec.to_builtins(VARIANT.graphs["model"]) | {"max_abs_error": {"y": -1}}}
            ),
            "max_abs_error of 'y' is -1.0; it must be at least 0",
        ),
        (
            changed_variant(graphs={"model": msgspec.to_builtins(VARIANT.graphs["model"]) | {"file": "../x"}}),
            r"file is '\.\./x'; it must match",
        ),
        (changed(variants=[msgspec.to_builtins(VARIANT)] * 2), r"\['int8', 'int8'\]; each may be there once"),
    ],
)
def test_variants_that_do_not_match_the_schema_are_refused(text: str, message: str) -> None:
    with pytest.raises(StrictError, match=message):
        parse_manifest(text)


def test_a_variant_of_a_language_model_has_the_graphs_of_prompts_and_of_steps() -> None:
    state = {"name": "h", "datatype": "FP32", "shape": [4]}
    language = {"vocab_size": 9, "context": 8, "bos_token": 0, "eos_token": 0, "states": [state]}
    texts = {"task": "text-generation", "language": language, "tokenizer": "tokenizer.json"}
    outputs = [
        {"name": name, "datatype": "FP32", "shape": shape} for name, shape in (("logits", [-1, 9]), ("next_h", [-1, 4]))
    ]
    graph = msgspec.to_builtins(GRAPH) | {"outputs": outputs}
    variant = msgspec.to_builtins(VARIANT.graphs["model"]) | {"max_abs_error": {"logits": 0.5}}
    both = {"decode": graph, "prefill": graph}

    def text_of(*names: str) -> str:
        named = msgspec.to_builtins(VARIANT) | {"graphs": dict.fromkeys(names, variant)}
        return changed(graphs=both, variants=[named], **texts)

    assert parse_manifest(text_of("decode", "prefill")).variants[0].graphs["decode"].weights is None
    with pytest.raises(StrictError, match="lacks 'decode' or 'prefill'"):
        parse_manifest(text_of("decode"))


def test_only_graphs_and_batching_are_needed_for_tensors() -> None:
    text = json.dumps(
        {"name": "a", "version": "1", "task": "tensors", "description": ""}
        | {"graphs": {"model": msgspec.to_builtins(GRAPH)}, "batching": {"max_batch_size": 1, "buckets": [1]}}
    )
    manifest = parse_manifest(text)
    assert (manifest.labels, manifest.evaluation, manifest.training) == (None, (), None)


def test_a_manifest_must_repeat_the_names_of_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "shoes" / "4"
    folder.mkdir(parents=True)
    write_manifest(folder, MANIFEST)
    with pytest.raises(StrictError, match="names 'shoes' version '3', but its folder is shoes/4"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[1,]"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(StrictError, match=r"manifest\.json is not JSON"):
        parse_manifest(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(name="my shoes"), "name is 'my shoes'; it must match"),
        (changed(name="../etc"), "name is '../etc'"),
        (changed(version="0"), "version is '0'"),
        (changed(version="v1"), "version is 'v1'"),
        (changed(task="Cooking!"), "task is 'Cooking!'; it must match"),
        (changed(graphs={}), "graphs is empty"),
        (changed(labels=None), "labels are missing"),
        (changed(labels=[]), "labels are missing"),
        (changed(extra=1), "unknown field `extra`; known are name, version, task"),
        (changed_graph(file="../model.onnx"), r"graphs\[\.\.\.\]: file is '\.\./model\.onnx'"),
        (changed_graph(file=".hidden"), "file is '.hidden'"),
        (changed_graph(sha256="0" * 63), "sha256 is '0"),
        (
            changed_graph(inputs=[{"name": "x", "datatype": "FP8", "shape": [1]}]),
            "value 'FP8'; valid are BF16",
        ),
        (changed(batching={"max_batch_size": 0, "buckets": [1]}), "max_batch_size is 0; it must be at least 1"),
        (changed(batching={"max_batch_size": 4, "buckets": []}), r"buckets are \[\]"),
        (changed(batching={"max_batch_size": 4, "buckets": [2, 1, 4]}), "must be positive and ascending"),
        (changed(batching={"max_batch_size": 4, "buckets": [1, 1, 4]}), "must be positive and ascending"),
        (changed(batching={"max_batch_size": 4, "buckets": [0, 4]}), "must be positive and ascending"),
        (changed(batching={"max_batch_size": 4, "buckets": [1, 2]}), "the last bucket is 2; it must be max_batch_size"),
    ],
)
def test_a_manifest_that_does_not_match_the_schema_is_refused(text: str, message: str) -> None:
    with pytest.raises(StrictError, match=message):
        parse_manifest(text)


def test_a_manifest_never_holds_nan(tmp_path: Path) -> None:
    broken = msgspec.structs.replace(MANIFEST, parity=Parity(max_abs_error=float("nan"), batch_sizes=(1,)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(tmp_path, broken)


def test_a_tensor_has_a_numpy_type_and_a_row_shape() -> None:
    assert IMAGE.dtype == np.dtype(np.uint8)
    assert IMAGE.row_shape == (28, 28, 1)
    assert NUMPY_DTYPES["FP16"].itemsize == 2


def test_the_hash_is_sha256() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
