"""What the tests of texts, styles and drawings share: small models with known weights, and their services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.manifest import Batching
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.image_generation import TinyDrawer, write_gan, write_vae
from tests.fake_models.style_transfer import TinyPainter, write_painter
from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder, TinyDecoder
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


@pytest.fixture(scope="session")
def drawers_repository(
    tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier, transformer: TinyDecoder
) -> Path:
    """A repository of generators: a GAN, one whose rows take long, and two VAEs; a classifier and a language model."""
    folder = tmp_path_factory.mktemp("drawers")
    write_gan(folder)
    write_gan(folder, "tiny-slow-gan", num_burdens=4, batching=Batching(max_batch_size=4, buckets=(1, 4)))
    write_vae(folder)
    write_vae(folder, "tiny-labelled-vae", is_conditional=True)
    network.write(folder, "tiny")
    transformer.write(folder)
    return folder


@pytest.fixture(scope="session")
def gan() -> TinyDrawer:
    """The network that is served as `tiny-gan`."""
    return TinyDrawer(has_encoder=False, is_conditional=True)


@pytest.fixture(scope="session")
def vae() -> TinyDrawer:
    """The network that is served as `tiny-vae`."""
    return TinyDrawer(has_encoder=True, is_conditional=False, seed=1)


@pytest.fixture(scope="session")
def labelled_vae() -> TinyDrawer:
    """The network that is served as `tiny-labelled-vae`."""
    return TinyDrawer(has_encoder=True, is_conditional=True, seed=1)


@pytest.fixture(scope="session")
def drawer_service(drawers_repository: Path) -> Iterator[RunningService]:
    """The real service on the generators; tests must leave it as they found it."""
    with RunningService(drawers_repository, "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def drawers(drawer_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of generators."""
    with httpx.Client(base_url=drawer_service.url, timeout=30) as client:
        yield client
