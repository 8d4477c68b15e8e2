"""A version that was exported before gets the graph of embeddings that a new export writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace
from tokenizers import Tokenizer

from models.manifest import read_manifest, write_manifest
from tests.fake_models.tokenizers import SAMPLE, byte_level
from tests.training.export.test_language import CARD
from tests.training.lineage import UNTRAINED
from training.export.embedding import extend_version, main
from training.export.language import export_language_model
from training.export.version import ExportError
from training.train_language import LanguageConfig, make_network

CONFIGS = {
    "transformer": LanguageConfig(
        context=32, short_window=0, width=64, num_layers=2, num_heads=4, num_kv_heads=2, hidden_width=48
    ),
    "rnn": LanguageConfig(network="rnn", context=32, short_window=0, width=24, num_layers=2),
    "gru": LanguageConfig(network="gru", context=32, short_window=0, width=24, num_layers=2),
    "lstm": LanguageConfig(network="lstm", context=32, short_window=0, width=24, num_layers=2),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_old_version_gets_the_same_graph(kind: str, tmp_path: Path) -> None:
    config, tokenizer = CONFIGS[kind], Tokenizer.from_str(byte_level().decode())
    card = dataclasses.replace(CARD, training=replace(UNTRAINED, config=config.to_json() | {"evaluation_stride": 16}))
    network = make_network(config, tokenizer.get_vocab_size())
    folder = export_language_model(network, tokenizer, card, tmp_path, begin=0, text=SAMPLE)
    new, graph = read_manifest(folder), (folder / "embedding.onnx").read_bytes()
    (folder / "embedding.onnx").unlink()
    write_manifest(folder, replace(new, graphs={k: v for k, v in new.graphs.items() if k != "embedding"}))

    assert main(["--model", "sample", "--model-version", "2", "--repository", str(tmp_path)]) == 0

    assert (folder / "embedding.onnx").read_bytes() == graph
    assert read_manifest(folder).graphs == new.graphs


def test_other_versions_are_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(byte_level().decode())
    network = make_network(CONFIGS["lstm"], tokenizer.get_vocab_size())
    folder = export_language_model(network, tokenizer, CARD, tmp_path, begin=0, text=SAMPLE)
    write_manifest(folder, replace(read_manifest(folder), training=None))

    with pytest.raises(ExportError, match="train_language"):
        extend_version(folder)
