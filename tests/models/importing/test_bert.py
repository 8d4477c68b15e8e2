"""A BERT-type folder becomes a graph that gives what transformers gives, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from models.importing.bert import read_sentence_encoder
from models.importing.huggingface import find_files
from models.importing.sources import ImportRefused
from models.manifest import Source, read_manifest
from models.tokenizer import TextEncoder
from tests.fake_models.bert import MAX_TOKENS, WIDTH, write_bert

TEXTS = ["It was the best of times", "Call me Ishmael!", "a whale"]


def written(folder: Path, source: Path) -> Path:
    version = folder / "encoder" / "1"
    version.mkdir(parents=True)
    read_sentence_encoder(source).write(version, Source(origin="a test"))
    return version


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_vectors_in_one_batch_are_those_of_transformers(pooling: str, activation: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    import torch

    source = write_bert(tmp_path / "source", pooling, hidden_act=activation)
    version = written(tmp_path, source)
    encoding = read_manifest(version).text
    assert encoding is not None
    encoded = TextEncoder((version / "tokenizer.json").read_bytes(), encoding).encode_all(TEXTS)
    rows = np.full((len(TEXTS), max(map(len, encoded)) + 3), -1)
    for row, tokens in zip(rows, encoded, strict=True):
        row[: len(tokens)] = tokens

    (vectors,) = onnxruntime.InferenceSession(version / "model.onnx").run(None, {"tokens": rows})

    network = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    for vector, tokens in zip(vectors, encoded, strict=True):
        with torch.no_grad():
            states = network(torch.tensor([tokens])).last_hidden_state[0].numpy()
        expected = states[0] if pooling == "cls_token" else states.mean(0)
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-6)


def test_the_tokenizer_says_what_begins_and_ends_a_text(tmp_path: Path) -> None:
    encoding = read_sentence_encoder(write_bert(tmp_path)).encoding

    assert (encoding.begin_tokens, encoding.end_tokens, encoding.max_tokens) == ((2,), (3,), MAX_TOKENS)


def test_the_length_that_sentence_transformers_cut_at_is_kept(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')

    assert read_sentence_encoder(tmp_path).encoding.max_tokens == 16


def test_a_folder_of_weights_is_found_without_a_graph(tmp_path: Path) -> None:
    assert find_files(str(write_bert(tmp_path))).file is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_hidden_layers": 3}, "the first is 'encoder.layer.2"),
        ({"hidden_size": "wide"}, "config.json"),
    ],
)
def test_a_network_of_another_kind_is_refused(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=told):
        read_sentence_encoder(write_bert(tmp_path, **changed))


def test_another_pooling_and_another_module_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="max_tokens"):
        read_sentence_encoder(write_bert(tmp_path, "max_tokens"))
    (tmp_path / "modules.json").write_text('[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(ImportRefused, match="Dense"):
        read_sentence_encoder(tmp_path)


def test_the_golden_vectors_have_length_1(tmp_path: Path) -> None:
    from models.golden import read_golden

    golden = read_golden(written(tmp_path, write_bert(tmp_path / "source")))["model"]

    assert golden.outputs["vector"].shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(golden.outputs["vector"], axis=1), 1, atol=1e-6)
    assert (golden.inputs["tokens"] == -1).any()
