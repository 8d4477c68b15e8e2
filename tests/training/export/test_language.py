"""A version folder is complete, describes itself, and is left as it was when its graphs would be wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from models.golden import read_golden
from models.importing.graph_builder import PackedWeights
from models.importing.integer_products import NamedGraphs
from models.manifest import Evaluation, read_manifest, sha256_hex
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.tokenizers import SAMPLE, byte_level
from tests.training.lineage import UNTRAINED
from tests.training.small_language import random_tokens, small_recurrent, small_transformer
from training.export.embedding import rebuilt_network
from training.export.language import (
    LanguageModel,
    build_graphs,
    embedding_graph,
    export_language_model,
    full_attention,
    full_logits,
)
from training.export.version import DEFAULT_REPOSITORY, ExportError, ModelCard
from training.networks.recurrent import STATES, CellName

CARD = ModelCard(
    name="sample",
    version="2",
    task="text-generation",
    description="A sample.",
    evaluation=(Evaluation(metric="bits_per_byte", value=2.0, dataset="sample", split="test", count=9),),
    training=UNTRAINED,
)

NETWORKS: dict[str, Callable[[int], LanguageModel]] = {
    "transformer": lambda vocab_size: small_transformer(vocab_size=vocab_size),
    "rnn": lambda vocab_size: small_recurrent("rnn", vocab_size=vocab_size),
    "gru": lambda vocab_size: small_recurrent("gru", vocab_size=vocab_size),
    "lstm": lambda vocab_size: small_recurrent("lstm", vocab_size=vocab_size),
}

each = pytest.mark.parametrize("kind", NETWORKS)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(byte_level().decode())


@each
def test_a_version_describes_its_graphs_and_shares_one_file_of_weights(kind: str, tmp_path: Path) -> None:
    ours = tokenizer()
    network = NETWORKS[kind](ours.get_vocab_size())

    folder = export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE)

    manifest = read_manifest(folder)
    graphs = {"decode", "prefill", "embedding"} | ({"attention"} if kind == "transformer" else set())
    assert folder == tmp_path / "sample" / "2"
    assert manifest.graphs.keys() == graphs
    assert {file.name for file in folder.iterdir()} == {f"{graph}.onnx" for graph in graphs} | {
        "weights.bin",
        "tokenizer.json",
        "golden.npz",
        "manifest.json",
    }
    content = (folder / "weights.bin").read_bytes()
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert num_parameters * 4 <= len(content) < num_parameters * 4 + 20_000
    for graph in manifest.graphs.values():
        assert graph.sha256 == sha256_hex((folder / graph.file).read_bytes())
        assert graph.weights is not None
        assert graph.weights.sha256 == sha256_hex(content)
        assert (folder / graph.file).stat().st_size < 20_000
        onnx.load(folder / graph.file)
    assert manifest.parity is not None
    assert 0 < manifest.parity.max_abs_error < 1e-4
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SAMPLE).ids == ours.encode(SAMPLE).ids
    assert sorted(path.name for path in folder.parent.iterdir()) == ["2"]


def test_the_manifest_tells_a_decoder_what_it_needs(tmp_path: Path) -> None:
    ours = tokenizer()
    network = small_transformer(vocab_size=ours.get_vocab_size())

    manifest = read_manifest(export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE))

    language = manifest.language
    assert language is not None
    assert (language.vocab_size, language.context, language.attention_tokens) == (ours.get_vocab_size(), 96, 96)
    assert (language.bos_token, language.eos_token) == (0, 0)
    assert [state.name for state in language.states] == ["key_0", "value_0", "key_1", "value_1"]
    assert {(state.shape, state.length_axis) for state in language.states} == {((2, 96, 16), 1)}
    limits = {name: graph.max_batch_size for name, graph in manifest.graphs.items()}
    assert limits == {"decode": None, "prefill": None, "attention": 4, "embedding": None}
    decode = manifest.graphs["decode"]
    assert [spec.name for spec in decode.inputs[:3]] == ["token", "length", "key_0"]
    assert decode.outputs[0].shape == (-1, ours.get_vocab_size())
    assert decode.outputs[1].name == "next_key_0"
    assert decode.outputs[1].shape == (-1, 2, 96, 16)


@pytest.mark.parametrize("cell", STATES)
def test_the_manifest_of_a_recurrent_network_has_states_without_lengths(cell: CellName, tmp_path: Path) -> None:
    ours = tokenizer()
    network = small_recurrent(cell, vocab_size=ours.get_vocab_size())

    manifest = read_manifest(export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE))

    assert manifest.language is not None
    assert [(s.name, s.shape, s.length_axis) for s in manifest.language.states] == [
        (name, (2, 24), None) for name in STATES[cell]
    ]
    assert [spec.name for spec in manifest.graphs["decode"].inputs] == ["token", *STATES[cell]]


@pytest.mark.parametrize("cell", STATES)
def test_the_service_decodes_a_recurrent_network_as_torch_does(cell: CellName, tmp_path: Path) -> None:
    ours = tokenizer()
    network = small_recurrent(cell, vocab_size=ours.get_vocab_size())
    folder = export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE)
    loaded = load_version(folder, Settings(threads=1, max_sequences=3), Device("cpu")).decoder
    assert loaded is not None
    decoder, rows, lengths = loaded.decoder, random_tokens(3, 30), [25, 1, 9]
    expected = full_logits(network, rows)
    # Twice, for a slot that was used must be read as a fresh one.
    for _ in range(2):
        for slot, length in enumerate(lengths):
            decoder.prefill(slot, rows[slot, :length], 0, [length - 1])
        for step in range(4):
            places = np.array(lengths) + step
            decoder.lengths[:3], decoder.tokens[:3] = places, rows[range(3), places]
            np.testing.assert_allclose(decoder.decode(3), expected[range(3), places], atol=1e-4, rtol=0)


def test_the_lstm_that_ships_is_written_anew_byte_for_byte() -> None:
    folder = DEFAULT_REPOSITORY / "novelist-lstm" / "1"
    manifest, weights = read_manifest(folder), PackedWeights(NamedGraphs.read(folder).weights)
    network = rebuilt_network(manifest, weights)

    exported = build_graphs(network)
    exported.graphs["embedding"] = embedding_graph(network, exported.weights, 0)

    for name, graph in exported.graphs.items():
        assert graph.model.SerializeToString() == (folder / f"{name}.onnx").read_bytes()


def test_golden_rows_are_the_callers_text_with_the_networks_logits(tmp_path: Path) -> None:
    ours = tokenizer()
    network = small_transformer(vocab_size=ours.get_vocab_size())

    golden = read_golden(export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE))

    tokens = golden["sequence"].inputs["tokens"]
    assert tokens.shape == (3, 24)
    assert not tokens[:, 0].any()
    assert ours.decode(tokens[0, 1:].tolist()) in SAMPLE
    np.testing.assert_array_equal(golden["sequence"].outputs["logits"], full_logits(network, tokens))
    explained = golden["attention"].inputs["tokens"]
    np.testing.assert_array_equal(golden["attention"].outputs["attention"], full_attention(network, explained))


def test_a_graph_that_differs_from_torch_leaves_the_old_version_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tokenizer()
    network = small_transformer(vocab_size=ours.get_vocab_size())
    folder = export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE)
    before = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr("training.export.language.NORM_EPSILON", 0.1)

    with pytest.raises(ExportError, match="differs from torch by"):
        export_language_model(
            network, ours, dataclasses.replace(CARD, description="Wrong."), tmp_path, begin=0, text=SAMPLE
        )

    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["2"]


def test_a_tokenizer_or_text_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the tokenizer has 300 tokens; it must have 61"):
        export_language_model(small_transformer(), tokenizer(), CARD, tmp_path, begin=0, text=SAMPLE)
    with pytest.raises(ExportError, match="is empty"):
        export_language_model(small_recurrent("lstm", vocab_size=300), tokenizer(), CARD, tmp_path, begin=0, text="")
