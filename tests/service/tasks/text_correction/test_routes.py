"""`correct` over HTTP: what the network writes for each sentence, with its alignment on request."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import RunningService
from tests.training.export.test_corrector import CARD
from tests.training.small_corrector import TEXTS, alphabet_tokenizer, small_corrector
from training.export.corrector import ExportedCorrector, export_corrector, max_written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Weights with which the network finds the end of these texts in time.
    return export_corrector(small_corrector(), alphabet_tokenizer(), CARD, tmp_path_factory.mktemp("spelling"), TEXTS)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[RunningService]:
    with RunningService(folder.parent.parent, "--threads", "1", "--instances", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{service.url}/v1/models/small", timeout=60) as made:
        yield made


def expected(folder: Path, text: str) -> str:
    written = ExportedCorrector(folder)([text])[0]
    return written if len(written) < max_written(48) else text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_the_network_writes_it(client: httpx.Client, folder: Path, text: str) -> None:
    answer = client.post("/correct", json={"text": text}).json()

    right = expected(folder, text)
    assert answer["results"] == [{"text": right, "is_changed": right != text}]
    assert (answer["model"], answer["version"]) == ("small", "1")


def test_texts_of_one_request_and_of_many_are_the_same(client: httpx.Client, folder: Path) -> None:
    together = client.post("/correct", json={"text": TEXTS}).json()["results"]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        apart = list(threads.map(lambda text: client.post("/correct", json={"text": text}).json()["results"][0], TEXTS))

    assert together == apart


def test_an_alignment_has_a_row_for_each_written_character(client: httpx.Client) -> None:
    text = f"{TEXTS[1]}\n {TEXTS[2]}"

    result = client.post("/correct", json={"text": text, "alignment": True}).json()["results"][0]

    starts = [part["start"] for part in result["alignment"]]
    assert starts == [0, len(TEXTS[1]) + 2]
    assert "".join([result["alignment"][0]["text"], "\n ", result["alignment"][1]["text"]]) == result["text"]
    for part in result["alignment"]:
        assert len(part["weights"]) == len(part["text"])
        assert all(len(row) == len(part["source"]) for row in part["weights"])
        assert all(abs(sum(row) - 1) < 0.05 for row in part["weights"])


def test_unknown_characters_are_copied_or_dropped_and_never_invented(client: httpx.Client) -> None:
    answer = client.post("/correct", json={"text": "☃ met a cow ☃"}).json()["results"][0]["text"]

    assert set(answer) <= set("☃ met a cow ☃ .abcdeghimnorstuw")


def test_an_empty_text_stays_empty(client: httpx.Client) -> None:
    assert client.post("/correct", json={"text": ["", " \n"]}).json()["results"] == [
        {"text": "", "is_changed": False},
        {"text": " \n", "is_changed": False},
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": "a" * 70_000}, "at most 65536"),
        ({"text": "a " * 2000, "alignment": True}, "at most 2048 with alignment"),
        ({"text": 5}, "a text of Unicode characters"),
        ({}, "text is missing"),
        ({"text": "a", "alignments": True}, "did you mean alignment"),
    ],
)
def test_what_cannot_be_corrected_is_refused(client: httpx.Client, body: dict[str, Any], told: str) -> None:
    answer = client.post("/correct", json=body)

    assert answer.status_code == 422
    assert told in answer.json()["detail"]


def test_the_open_inference_protocol_has_both_graphs(service: RunningService) -> None:
    metadata = httpx.get(f"{service.url}/v2/models/small.align").json()

    assert [each["name"] for each in metadata["outputs"]] == ["corrected", "places", "alignment"]
