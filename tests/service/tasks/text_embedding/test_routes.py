"""Texts as vectors, by a language model and by an imported encoder, as OpenAI's client and our own route have them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.importing.bert import BertReference, read_sentence_encoder
from models.manifest import Evaluation, Source
from tests.fake_models.bert import MAX_TOKENS, WIDTH, wordpiece, write_bert
from tests.fake_models.tokenizers import SAMPLE, byte_level
from tests.servers import RunningService
from tests.training.lineage import UNTRAINED
from tests.training.small_language import small_recurrent, small_transformer
from training.export.language import LanguageModel, export_language_model, full_embeddings
from training.export.version import ModelCard

TEXTS = ["It was the best of times", "Call me Ishmael!", "a whale", "It was the best of times, it was the worst"]
TOKENIZER = Tokenizer.from_str(byte_level().decode())
NETWORKS: dict[str, LanguageModel] = {
    "transformer": small_transformer(vocab_size=TOKENIZER.get_vocab_size()),
    "lstm": small_recurrent("lstm", vocab_size=TOKENIZER.get_vocab_size()),
}


def card(name: str) -> ModelCard:
    score = Evaluation(metric="bits_per_byte", value=2.0, dataset="sample", split="test", count=9)
    return ModelCard(
        name=name, version="1", task="text-generation", description=name, evaluation=(score,), training=UNTRAINED
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("encoders")
    for name, network in NETWORKS.items():
        export_language_model(network, TOKENIZER, card(name), repository, begin=0, text=SAMPLE)
    folder = repository / "encoder" / "1"
    folder.mkdir(parents=True)
    read_sentence_encoder(source).write(folder, Source(origin="a test"))
    with RunningService(repository, "--threads", "1", "--instances", "1", "--max-sequences", "2") as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def tokens_of(model: str, text: str) -> list[int]:
    if model == "encoder":
        return list(wordpiece().encode(text).ids)
    return [0, *TOKENIZER.encode(text, add_special_tokens=False).ids]


def expected(model: str, texts: list[str], source: Path) -> NDArray[Any]:
    rows = [np.array([tokens_of(model, text)]) for text in texts]
    if model == "encoder":
        encoder = read_sentence_encoder(source)
        reference = BertReference(encoder.config, encoder.tensors)
        return np.concatenate([reference.vectors(row, "mean") for row in rows])
    return np.concatenate([full_embeddings(NETWORKS[model], row, 0) for row in rows])


@pytest.mark.parametrize("model", ["encoder", "transformer", "lstm"])
@pytest.mark.parametrize("form", ["float", "base64"])
def test_texts_are_embedded_as_by_the_network_alone(client: openai.OpenAI, source: Path, model: str, form: Any) -> None:
    answer = client.embeddings.create(model=model, input=TEXTS, encoding_format=form)

    vectors: Any = [item.embedding for item in answer.data]
    if form == "base64":
        vectors = [np.frombuffer(b64decode(text), "<f4") for text in vectors]
    np.testing.assert_allclose(vectors, expected(model, TEXTS, source), atol=2e-5)
    assert answer.usage.prompt_tokens == sum(len(tokens_of(model, text)) for text in TEXTS)


@pytest.mark.parametrize("model", ["encoder", "transformer"])
def test_token_ids_are_taken_as_they_are(client: openai.OpenAI, model: str) -> None:
    ids = [tokens_of(model, text) for text in TEXTS]

    by_text = client.embeddings.create(model=model, input=TEXTS).data
    by_ids = client.embeddings.create(model=model, input=ids).data
    one = client.embeddings.create(model=model, input=ids[1]).data

    np.testing.assert_allclose([e.embedding for e in by_ids], [e.embedding for e in by_text], atol=1e-6)
    np.testing.assert_allclose(one[0].embedding, by_text[1].embedding, atol=1e-5)


def test_a_shortened_vector_has_length_1(client: openai.OpenAI) -> None:
    whole = np.array(client.embeddings.create(model="encoder", input=TEXTS[0]).data[0].embedding)

    short = client.embeddings.create(model="encoder", input=TEXTS[0], dimensions=WIDTH // 2).data[0].embedding

    np.testing.assert_allclose(short, whole[: WIDTH // 2] / np.linalg.norm(whole[: WIDTH // 2]), atol=1e-6)


def test_our_own_route_gives_the_same(client: openai.OpenAI, service: RunningService) -> None:
    body = {"text": TEXTS[0]}

    answer = httpx.post(f"{service.url}/v1/models/lstm/embed", json=body, timeout=60).json()

    (result,) = answer["results"]
    theirs = client.embeddings.create(model="lstm", input=TEXTS[0]).data[0].embedding
    np.testing.assert_allclose(result["embedding"], theirs, atol=1e-6)
    assert result["num_tokens"] == len(tokens_of("lstm", TEXTS[0]))
    assert (answer["model"], answer["version"]) == ("lstm", "1")


@pytest.mark.parametrize(
    ("model", "given", "code"),
    [
        ("encoder", "times " * MAX_TOKENS, "context_length_exceeded"),
        ("transformer", "times " * 200, "context_length_exceeded"),
        ("transformer", ["fine", ""], "invalid_parameter"),
        ("encoder", [[2, 10**6]], "unknown_token"),
        ("encoder", [[2], "a text"], "invalid_parameter"),
        ("encoder", [], "invalid_parameter"),
        ("encoder", [[]], "invalid_parameter"),
        ("encoder", [2, True], "invalid_parameter"),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_400(
    service: RunningService, model: str, given: Any, code: str
) -> None:
    answer = httpx.post(f"{service.url}/v1/embeddings", json={"model": model, "input": given}, timeout=60)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, "input")


def test_a_text_that_fills_the_context_is_embedded(client: openai.OpenAI, source: Path) -> None:
    longest = " ".join(["times"] * (MAX_TOKENS - 2))

    vector = client.embeddings.create(model="encoder", input=longest).data[0].embedding

    np.testing.assert_allclose([vector], expected("encoder", [longest], source), atol=2e-5)


def test_special_names_in_a_text_are_text(client: openai.OpenAI, source: Path) -> None:
    with torch.no_grad():
        vector = client.embeddings.create(model="encoder", input="call [SEP] me").data[0].embedding

    assert not np.allclose([vector], expected("encoder", ["call [SEP] me"], source), atol=1e-3)
