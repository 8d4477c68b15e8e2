"""The graphs of a corrector write what the network writes, whichever rows share a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models.alphabet import Alphabet
from models.golden import read_golden
from models.manifest import Evaluation, read_manifest
from tests.training.lineage import UNTRAINED
from tests.training.small_corrector import TEXTS, alphabet_tokenizer, small_corrector
from training.export.corrector import ExportedCorrector, export_corrector, max_written
from training.export.version import ExportError, ModelCard

CARD = ModelCard(
    name="small",
    version="1",
    task="text-correction",
    description="A sample.",
    evaluation=(Evaluation(metric="word_error_rate", value=0.5, dataset="sample", split="test", count=9),),
    training=UNTRAINED,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_corrector(small_corrector(), alphabet_tokenizer(), CARD, tmp_path_factory.mktemp("out"), TEXTS)


def test_a_row_is_written_alike_alone_and_in_a_batch(folder: Path) -> None:
    alphabet = Alphabet((folder / "tokenizer.json").read_bytes())
    session = onnxruntime.InferenceSession(folder / "align.onnx")
    rows = alphabet.rows(TEXTS, 40)

    together = session.run(None, {"characters": rows})
    alone = [session.run(None, {"characters": row[None]}) for row in rows]

    assert together[0].shape == (len(TEXTS), max_written(40))
    for index, outputs in enumerate(alone):
        np.testing.assert_array_equal(outputs[0][0], together[0][index])
        length = int((outputs[0][0] != 0).sum()) + 1
        np.testing.assert_allclose(outputs[2][0, :length], together[2][index, :length], atol=1e-5)


def test_the_graph_writes_what_the_network_writes(folder: Path) -> None:
    alphabet, network = Alphabet((folder / "tokenizer.json").read_bytes()), small_corrector()
    expected, longest = [], max(map(len, TEXTS))
    for text in TEXTS:
        rows = torch.from_numpy(alphabet.rows([text], longest))
        written, attention = network.correct(rows, max_written(longest))
        expected.append(alphabet.decode(written[0].tolist(), attention[0].argmax(-1).tolist(), text))

    assert ExportedCorrector(folder)(TEXTS) == expected
    assert len(set(expected)) > 1


def test_attention_is_a_distribution_over_the_text_alone(folder: Path) -> None:
    golden = read_golden(folder)["align"]
    lengths = (golden.inputs["characters"] != 0).sum(1)

    for length, corrected, alignment in zip(
        lengths, golden.outputs["corrected"], golden.outputs["alignment"], strict=True
    ):
        written = alignment[: int((corrected != 0).sum())]
        np.testing.assert_allclose(written.sum(1), 1, atol=1e-5)
        assert written[:, length:].max(initial=0) < 1e-6


def test_both_graphs_share_one_file_of_weights(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert {graph.weights for graph in manifest.graphs.values()} == {manifest.graphs["correct"].weights}
    assert manifest.text is not None
    assert manifest.text.max_tokens == 256


def test_a_text_longer_than_a_row_is_refused(folder: Path) -> None:
    with pytest.raises(ExportError, match="257 characters"):
        ExportedCorrector(folder)(["a" * 257])
