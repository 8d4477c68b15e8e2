"""A language model in int8 computes nearly the same, the same to the bit in any company, and says what it scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.golden import read_golden
from models.importing import integer_products
from models.importing.integer_products import IntegerGraphs, NamedGraphs, smooth
from models.manifest import Evaluation, Manifest, Training, read_manifest
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.tokenizers import byte_level
from tests.training.lineage import UNTRAINED
from tests.training.small_language import small_recurrent, small_transformer
from training.data.corpus import Corpus, read_corpus
from training.export import language_int8
from training.export.language import LanguageModel, export_language_model
from training.export.language_int8 import GraphNetwork, extend_language_version
from training.export.quantization import main
from training.export.version import ExportError, ModelCard, open_graph
from training.networks.recurrent import STATES, CellName
from training.scores.text import TextScore

WORDS = "the quick brown fox jumps over a lazy dog and runs away from it again"
TEXT = " ".join(np.random.default_rng(1).choice(WORDS.split(), size=3000))
ROWS = np.random.default_rng(0).integers(1, 200, (3, 40))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fables.txt"
    path.write_text(TEXT)
    return path


def export(repository: Path, network: LanguageModel, text: Path) -> tuple[Path, Corpus]:
    """Export a network as one that was trained on a text."""
    corpus = read_corpus(text)
    training = msgspec.structs.replace(
        UNTRAINED, script="training.train_language", dataset_sha256=corpus.sha256(), config={}
    )
    scores = tuple(
        Evaluation(metric="bits_per_byte", value=9.0, dataset=corpus.name, split=split, count=len(texts[0]))
        for split, texts in (("validation", corpus.validation), ("test", corpus.test))
    )
    card = ModelCard(
        name="fabulist", version="1", task="text-generation", description="", evaluation=scores, training=training
    )
    tokenizer = Tokenizer.from_str(byte_level().decode())
    return export_language_model(network, tokenizer, card, repository, begin=0, text=TEXT), corpus


def small(**options: Any) -> LanguageModel:
    return small_transformer(vocab_size=Tokenizer.from_str(byte_level().decode()).get_vocab_size(), **options)


def logits_of(folder: Path, graph: str = "prefill.int8.onnx", rows: NDArray[np.int64] = ROWS) -> NDArray[np.float32]:
    language = read_manifest(folder).language
    assert language is not None
    logits: NDArray[np.float32] = GraphNetwork(open_graph(folder / graph), language)(torch.from_numpy(rows)).numpy()
    return logits


def int8_of(manifest: Manifest) -> Any:
    return next(each for each in manifest.variants if each.precision == "int8")


def root_mean_square(array: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(array).mean()))


def quantized(folder: Path, fp32_layers: tuple[str, ...] = (), reach: float = 1.0) -> NDArray[np.float32]:
    """The logits with ranges from the rows themselves."""
    graphs, manifest = NamedGraphs.read(folder), read_manifest(folder)
    assert manifest.language is not None
    smoothed = smooth(graphs, language_int8._peaks(folder, graphs, manifest.language, ROWS.ravel().astype(np.int32)))
    writer = IntegerGraphs(graphs, smoothed, reach, fp32_layers, "weights.int8.bin")
    writer.weights.write(folder / "weights.int8.bin")
    (folder / "prefill.int8.onnx").write_bytes(writer.write("prefill").SerializeToString())
    return logits_of(folder)


def test_the_variant_serves_and_gives_the_same_logits_to_the_bit_in_any_company(tmp_path: Path, text: Path) -> None:
    folder, corpus = export(tmp_path, small(), text)
    extend_language_version(folder, corpus)

    loaded = load_version(folder, Settings(threads=1, max_sequences=7, precision="int8"), Device("cpu"))

    assert loaded.precision.precision == "int8"
    assert loaded.decoder is not None
    decoder, expected = loaded.decoder.decoder, logits_of(folder)
    for slot, row in enumerate(ROWS):
        chunks = [row[start : start + 7] for start in range(0, 35, 7)]
        found = [decoder.prefill(slot, part, 7 * at, list(range(7))).copy() for at, part in enumerate(chunks)]
        assert np.array_equal(np.concatenate(found), expected[slot, :35])
    for step in range(35, 40):
        decoder.tokens[:3], decoder.lengths[:3] = ROWS[:, step], step
        together = decoder.decode(3).copy()
        assert np.array_equal(decoder.decode(1), together[:1])  # the same token is written once more


def test_the_manifest_says_what_it_scores_and_how_it_agrees(tmp_path: Path, text: Path) -> None:
    folder, corpus = export(tmp_path, small(), text)

    variant = int8_of(extend_language_version(folder, corpus))

    size = len(corpus.test[0])
    assert {(each.metric, each.split, each.count) for each in variant.evaluation} == {
        ("nats_per_token", "test", size),
        ("bits_per_byte", "test", size),
    }
    assert variant.agreement.metric == "same_token"
    assert 0.5 < variant.agreement.value <= 1
    assert (variant.calibration.dataset, variant.calibration.split) == ("fables", "validation")
    assert set(variant.graphs) == {"decode", "prefill"}
    assert {graph.weights.file for graph in variant.graphs.values()} == {"weights.int8.bin"}
    golden = read_golden(folder)["sequence"]
    errors = np.abs(golden.variants["int8"]["logits"] - golden.outputs["logits"])
    assert 0 < errors.max() <= variant.graphs["prefill"].max_abs_error["logits"] * 2
    assert (folder / "weights.int8.bin").stat().st_size < (folder / "weights.bin").stat().st_size * 0.6


def test_the_version_in_fp32_stays_the_same_and_writing_anew_replaces_the_variant(tmp_path: Path, text: Path) -> None:
    folder, corpus = export(tmp_path, small(), text)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".onnx", ".bin")}

    first = extend_language_version(folder, corpus)
    again = extend_language_version(folder, corpus)

    assert {name: (folder / name).read_bytes() for name in before} == before
    assert again == first
    assert len(again.variants) == 1


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 4}, {"num_kv_heads": 1}])
def test_smooth_weights_compute_the_same(tmp_path: Path, text: Path, options: dict[str, int]) -> None:
    folder, _ = export(tmp_path, small(**options), text)
    layers = tuple(NamedGraphs.read(folder).layers)

    assert len(layers) == 2 * 5 + 1
    np.testing.assert_allclose(quantized(folder, layers), logits_of(folder, "prefill.onnx"), atol=1e-3)


def test_channels_of_unlike_sizes_lose_little(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "feed_forward_norm" in name:
                parameter[5] *= 20  # one channel is far larger than all others
    folder, _ = export(tmp_path, network, text)
    expected = logits_of(folder, "prefill.onnx")
    others = tuple(name for name in NamedGraphs.read(folder).layers if not name.endswith((".gate", ".up")))

    smoothed = root_mean_square(quantized(folder, others) - expected)
    monkeypatch.setattr(integer_products, "_smooth", lambda *_: None)
    plain = root_mean_square(quantized(folder, others) - expected)

    assert smoothed < plain / 1.5


def test_layers_that_lose_too_much_stay_in_fp32(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, corpus = export(tmp_path, small(), text)
    layers = NamedGraphs.read(folder).layers
    # What a layer costs is made plain: two of them lose, and each of the others nothing.
    costly = {"blocks.0.down": 0.5, "blocks.1.qkv": 0.3}
    written: list[list[str]] = []
    write, real_score = language_int8._Writer.write, language_int8._Text.score

    def observed(self: Any, reach: float, fp32_layers: list[str]) -> Any:
        written.append(list(fp32_layers))
        return write(self, reach, fp32_layers)

    def score(self: Any, network: Any, title: str, max_bytes: float = 0) -> TextScore:
        if title == "comparing":
            return real_score(self, network, title)
        lost = 0.0 if title == "in fp32" else sum(lost for name, lost in costly.items() if name not in written[-1])
        return TextScore(nats=1.0 + lost, num_tokens=1, num_bytes=1)

    monkeypatch.setattr(language_int8._Writer, "write", observed)
    monkeypatch.setattr(language_int8._Text, "score", score)

    variant = int8_of(extend_language_version(folder, corpus))

    assert variant.fp32_layers == ("blocks.0.down", "blocks.1.qkv")
    assert len(layers) == 11
    assert b"blocks.0.down.matrix" in (folder / "decode.int8.onnx").read_bytes()
    assert b"blocks.0.down.levels" not in (folder / "decode.int8.onnx").read_bytes()


@pytest.mark.parametrize("cell", STATES)
def test_the_products_of_a_recurrent_network_are_its_head(cell: CellName, tmp_path: Path, text: Path) -> None:
    vocab_size = Tokenizer.from_str(byte_level().decode()).get_vocab_size()
    folder, corpus = export(tmp_path, small_recurrent(cell, vocab_size=vocab_size), text)

    extend_language_version(folder, corpus)

    assert list(NamedGraphs.read(folder).layers) == ["embedding"]
    loaded = load_version(folder, Settings(threads=1, max_sequences=3, precision="int8"), Device("cpu"))
    assert loaded.precision.precision == "int8"
    # Its own weights are those of the head alone.
    assert (folder / "weights.int8.bin").stat().st_size < 24 * vocab_size + 4 * vocab_size + 300


def test_the_command_takes_the_text_that_the_model_was_trained_on_and_no_other(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path / "models", small(), text)
    command = ["--model", "fabulist", "--repository", str(tmp_path / "models")]

    assert main([*command, "--data", str(text)]) == 0
    told = capsys.readouterr().out + capsys.readouterr().err
    text.write_text(TEXT + " the end")

    assert main([*command, "--data", str(text)]) == 2
    assert "was trained on a text of the SHA-256" in capsys.readouterr().err
    assert main(command) == 2
    assert "give that text by --data" in capsys.readouterr().err
    assert "bits a byte (test) in int8; layers left in fp32: none" in told


def test_a_model_from_elsewhere_is_refused(tmp_path: Path, text: Path) -> None:
    folder, _ = export(tmp_path, small(), text)
    manifest = read_manifest(folder)
    assert isinstance(manifest.training, Training)

    with pytest.raises(ExportError, match=r"was not trained by training\.train_language"):
        language_int8.open_corpus_of(msgspec.structs.replace(manifest, training=None), text, tmp_path)
