"""What the tests of text generation and style transfer share: small models with known weights, and their services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.decoders import AttentionDecoder, RecurrentDecoder, TinyDecoder
from tests.networks import LinearClassifier
from tests.painters import TinyPainter, write_painter
from tests.servers import RunningService


@pytest.fixture(scope="session")
def transformer() -> AttentionDecoder:
    """The network that is served as `tiny-transformer`."""
    return AttentionDecoder()


@pytest.fixture(scope="session")
def recurrent() -> RecurrentDecoder:
    """The network that is served as `tiny-recurrent`."""
    return RecurrentDecoder()


@pytest.fixture(scope="session")
def language_repository(
    tmp_path_factory: pytest.TempPathFactory,
    network: LinearClassifier,
    transformer: TinyDecoder,
    recurrent: TinyDecoder,
) -> Path:
    """A repository with both language models, one that has lost its tokenizer, and a classifier."""
    folder = tmp_path_factory.mktemp("languages")
    transformer.write(folder)
    recurrent.write(folder)
    (recurrent.write(folder, "tiny-speechless") / "tokenizer.json").unlink()
    network.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def language_service(language_repository: Path) -> Iterator[RunningService]:
    """The real service on the language models; tests must leave it as they found it."""
    with RunningService(language_repository, "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def languages(language_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of language models."""
    with httpx.Client(base_url=language_service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def painter_repository(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Path:
    """A repository with a stylizer, which takes 128x128 pixels at once or tiles of 64, and a classifier."""
    folder = tmp_path_factory.mktemp("painters")
    write_painter(folder)
    network.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def painter() -> TinyPainter:
    """The network that is served as `tiny-painter`."""
    return TinyPainter()


@pytest.fixture(scope="session")
def painter_service(painter_repository: Path) -> Iterator[RunningService]:
    """The real service on the stylizer; tests must leave it as they found it."""
    options = ("--instances", "1", "--threads", "1", "--max-image-pixels", "4000000")
    with RunningService(painter_repository, *options) as running:
        yield running.wait_until_ready()


@pytest.fixture
def painters(painter_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of stylizers."""
    with httpx.Client(base_url=painter_service.url, timeout=30) as client:
        yield client
