"""Adds the graph of text embeddings to a language model that was exported before, without training.

    python -m training.export.embedding --model novelist

The network is built anew from the version's own weights, and the graph shares their file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from tokenizers import Tokenizer

from models.golden import read_golden, write_golden
from models.importing.graph_builder import WEIGHTS_FILE, PackedWeights, describe_graphs
from models.importing.integer_products import NamedGraphs
from models.manifest import Manifest, read_manifest, write_manifest
from models.tokenizer import TOKENIZER_FILE
from training.export.exported import run_command
from training.export.language import (
    LanguageModel,
    check_embedding_parity,
    embedding_graph,
    golden_embeddings,
    language_state,
)
from training.export.version import ExportError, ParityCheck, changed_folder
from training.train_language import LanguageConfig, make_network

_TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. "


def extend_version(folder: Path, _: object = None) -> Manifest:
    """Add the graph to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    manifest = read_manifest(folder)
    if manifest.language is None or manifest.training is None:
        raise ExportError(f"{manifest.name!r} was not trained by training.train_language; only such a version works.")
    weights = PackedWeights(NamedGraphs.read(folder).weights)
    if weights.nbytes != (folder / WEIGHTS_FILE).stat().st_size:
        raise ExportError(f"{WEIGHTS_FILE} of {manifest.name!r} holds more than its graphs name.")
    network = rebuilt_network(manifest, weights)
    begin = manifest.language.bos_token
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokens = np.array([begin, *tokenizer.encode(_TEXT, add_special_tokens=False).ids], np.int64)
    with changed_folder(folder) as scratch:
        graph = embedding_graph(network, weights, begin)
        (scratch / "embedding.onnx").write_bytes(graph.model.SerializeToString())
        check_embedding_parity(network, scratch / "embedding.onnx", tokens, begin, ParityCheck())
        write_golden(scratch, read_golden(scratch) | {"embedding": golden_embeddings(network, tokens, begin)})
        graphs = manifest.graphs | describe_graphs({"embedding": graph}, scratch)
        write_manifest(scratch, replace(manifest, graphs=graphs))
    return read_manifest(folder)


def rebuilt_network(manifest: Manifest, weights: PackedWeights) -> LanguageModel:
    """The torch network of an exported version.

    Raises: ExportError where it is not what its settings say.
    """
    assert manifest.language is not None
    assert manifest.training is not None
    config = LanguageConfig(**_settings(manifest.training.config))
    network = make_network(config, manifest.language.vocab_size)
    arrays = {name: np.asarray(array) for name, array in weights.tensors.items() if isinstance(array, np.ndarray)}
    try:
        network.load_state_dict(language_state(arrays))
    except RuntimeError as error:
        raise ExportError(f"the weights of {manifest.name!r} do not fit its settings: {error}.") from error
    return network.eval()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What the manifest notes of a run, without what it notes beside the settings."""
    return {name: value for name, value in config.items() if name in LanguageConfig.__dataclass_fields__}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add the graph of text embeddings to an exported language model."
    told = "texts have an embedding"
    return run_command("embedding", about, extend_version, lambda _: told, arguments, lambda *_: None)


if __name__ == "__main__":
    sys.exit(main())
