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
from models.manifest import Evaluation, read_manifest, sha256_hex
from tests.fake_models.tokenizers import SAMPLE, byte_level
from tests.training.lineage import UNTRAINED
from tests.training.small_language import small_lstm, small_transformer
from training.export.language import LanguageModel, export_language_model, full_attention, full_logits
from training.export.version import ExportError, ModelCard

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
    "lstm": lambda vocab_size: small_lstm(vocab_size=vocab_size),
}

both = pytest.mark.parametrize("kind", NETWORKS)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(byte_level().decode())


@both
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


def test_an_lstms_manifest_has_a_state_without_lengths(tmp_path: Path) -> None:
    ours = tokenizer()
    network = small_lstm(vocab_size=ours.get_vocab_size())

    manifest = read_manifest(export_language_model(network, ours, CARD, tmp_path, begin=0, text=SAMPLE))

    assert manifest.language is not None
    assert [(s.name, s.shape, s.length_axis) for s in manifest.language.states] == [
        ("h", (2, 24), None),
        ("c", (2, 24), None),
    ]
    assert [spec.name for spec in manifest.graphs["decode"].inputs] == ["token", "h", "c"]


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
        export_language_model(small_lstm(vocab_size=300), tokenizer(), CARD, tmp_path, begin=0, text="")
