"""Exports a corrector: graphs over one file of weights, compared with the network; and reads it back, to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from models.alphabet import Alphabet
from models.golden import Golden
from models.importing.graph_builder import PackedWeights, describe_graphs, write_graphs
from models.manifest import Parity, TextEncoding
from models.tokenizer import TOKENIZER_FILE
from training.export.corrector_graphs import EXTRA, GROWTH, CorrectorGraphs, corrector_weights
from training.export.version import ExportError, ModelCard, ParityCheck, open_graph, version_folder, write_version
from training.networks.corrector import Corrector

MAX_CHARACTERS = 256
_BATCH_ROWS = 32


def max_written(num_characters: int) -> int:
    """The places that a graph writes for a row of so many."""
    return num_characters + num_characters // GROWTH + EXTRA


def export_corrector(
    network: Corrector, tokenizer: Tokenizer, card: ModelCard, repository: Path, texts: Sequence[str]
) -> Path:
    """Export the network as a version folder in `repository`, replacing that version if it is there; returns it.

    `texts` are some to correct, of unequal length, for parity and golden I/O.

    Raises: ExportError when a graph and torch disagree.
    """
    network = network.cpu().float().eval()
    weights = PackedWeights(corrector_weights(network))
    writer = CorrectorGraphs(network.shape, weights)
    graphs = {"correct": writer.build(with_alignment=False), "align": writer.build(with_alignment=True)}
    with version_folder(repository, card) as folder:
        write_graphs(graphs, weights, folder)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        check = ParityCheck()
        rows = Alphabet((folder / TOKENIZER_FILE).read_bytes()).rows(texts, max(map(len, texts)))
        goldens = {name: _golden(network, rows[:2], name == "align") for name in graphs}
        for num_rows in (1, len(rows)):
            for name in graphs:
                _compare(network, folder / f"{name}.onnx", rows[:num_rows], check)
        write_version(
            folder,
            card,
            describe_graphs(graphs, folder),
            goldens,
            Parity(max_abs_error=check.worst, batch_sizes=(1, len(rows))),
            tokenizer=TOKENIZER_FILE,
            text=TextEncoding(vocab_size=network.shape.num_characters, max_tokens=MAX_CHARACTERS),
        )
    return repository / card.name / card.version


def _golden(network: Corrector, rows: np.ndarray[tuple[int, int], np.dtype[np.int64]], with_alignment: bool) -> Golden:
    """What the network writes for rows [B,T], filled up to all places that a graph writes."""
    written, attention = network.correct(torch.from_numpy(rows), max_written(rows.shape[1]))
    missing = max_written(rows.shape[1]) - written.shape[1]
    outputs = {
        "corrected": np.pad(written.numpy(), ((0, 0), (0, missing))),
        "places": np.pad(attention.argmax(-1).numpy(), ((0, 0), (0, missing))),
    }
    if with_alignment:
        outputs["alignment"] = np.pad(attention.numpy(), ((0, 0), (0, missing), (0, 0)))
    return Golden({"characters": rows}, outputs)


def _compare(
    network: Corrector, path: Path, rows: np.ndarray[tuple[int, int], np.dtype[np.int64]], check: ParityCheck
) -> None:
    session = open_graph(path)
    names = [output.name for output in session.get_outputs()]
    expected = _golden(network, rows, with_alignment=True).outputs
    for name, actual in zip(names, session.run(None, {"characters": rows}), strict=True):
        check.compare(f"{name} of {len(rows)} texts", expected[name], actual)


class ExportedCorrector:
    """An exported version as a corrector of texts.

    Raises: ExportError where a text is longer than a row.
    """

    def __init__(self, folder: Path) -> None:
        # One thread: the steps of a loop are small, and threads would meet at barriers in each.
        self._session = open_graph(folder / "correct.onnx", num_threads=1)
        self._alphabet = Alphabet((folder / TOKENIZER_FILE).read_bytes())

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Correct texts, in batches of like lengths."""
        if texts and max(map(len, texts)) > MAX_CHARACTERS:
            raise ExportError(f"a text has {max(map(len, texts))} characters; at most {MAX_CHARACTERS} fit a row.")
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        corrected = [""] * len(texts)
        for start in tqdm(range(0, len(order), _BATCH_ROWS), "network", unit="batch", leave=False):
            batch = order[start : start + _BATCH_ROWS]
            rows = self._alphabet.rows([texts[index] for index in batch], max(len(texts[index]) for index in batch))
            written, places = self._session.run(["corrected", "places"], {"characters": rows})
            for index, characters, looked in zip(batch, written.tolist(), places.tolist(), strict=True):
                corrected[index] = self._alphabet.decode(characters, looked, texts[index])
        return corrected
