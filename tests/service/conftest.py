"""Small models of every task with known weights, and services that serve them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.manifest import Batching
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.image_generation import TinyImageGenerator, write_gan, write_vae
from tests.fake_models.style_transfer import TinyStylizer, write_stylizer
from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder, TinyDecoder
from tests.servers import RunningService

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('No tools.') }}"
    "{% endif %}[{{ message.role }}]{{ message.content }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture(scope="session")
def transformer() -> AttentionDecoder:
    """The network that is served as `tiny-transformer`."""
    return AttentionDecoder()


@pytest.fixture(scope="session")
def recurrent() -> RecurrentDecoder:
    """The network that is served as `tiny-recurrent`."""
    return RecurrentDecoder()


@pytest.fixture(scope="session")
def text_generation_repository(
    tmp_path_factory: pytest.TempPathFactory,
    network: LinearClassifier,
    transformer: TinyDecoder,
    recurrent: TinyDecoder,
) -> Path:
    """A repository with both language models, one without its tokenizer, and a classifier."""
    folder = tmp_path_factory.mktemp("text-generation")
    transformer.write(folder)
    (recurrent.write(folder) / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (recurrent.write(folder, "tiny-speechless") / "tokenizer.json").unlink()
    network.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def text_generation_service(text_generation_repository: Path) -> Iterator[RunningService]:
    """The service with the language models; tests must not change it."""
    with RunningService(text_generation_repository, "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def text_generation_client(text_generation_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of language models."""
    with httpx.Client(base_url=text_generation_service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def style_transfer_repository(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Path:
    """A repository with a stylizer, which takes 128x128 pixels at once or tiles of 64, and a classifier."""
    folder = tmp_path_factory.mktemp("style-transfer")
    write_stylizer(folder)
    network.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def stylizer() -> TinyStylizer:
    """The network that is served as `tiny-stylizer`."""
    return TinyStylizer()


@pytest.fixture(scope="session")
def style_transfer_service(style_transfer_repository: Path) -> Iterator[RunningService]:
    """The service with the stylizer; tests must not change it."""
    options = ("--instances", "1", "--threads", "1", "--max-image-pixels", "4000000")
    with RunningService(style_transfer_repository, *options) as running:
        yield running.wait_until_ready()


@pytest.fixture
def style_transfer_client(style_transfer_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of stylizers."""
    with httpx.Client(base_url=style_transfer_service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def image_generation_repository(
    tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier, transformer: TinyDecoder
) -> Path:
    """A repository of generators: a GAN, a slow one, and two VAEs; a classifier and a language model."""
    folder = tmp_path_factory.mktemp("image-generation")
    write_gan(folder)
    write_gan(folder, "tiny-slow-gan", num_slow_layers=4, batching=Batching(max_batch_size=4, buckets=(1, 4)))
    write_vae(folder)
    write_vae(folder, "tiny-labelled-vae", is_conditional=True)
    network.write(folder, "tiny")
    transformer.write(folder)
    return folder


@pytest.fixture(scope="session")
def gan() -> TinyImageGenerator:
    """The network that is served as `tiny-gan`."""
    return TinyImageGenerator(has_encoder=False, is_conditional=True)


@pytest.fixture(scope="session")
def vae() -> TinyImageGenerator:
    """The network that is served as `tiny-vae`."""
    return TinyImageGenerator(has_encoder=True, is_conditional=False, seed=1)


@pytest.fixture(scope="session")
def labelled_vae() -> TinyImageGenerator:
    """The network that is served as `tiny-labelled-vae`."""
    return TinyImageGenerator(has_encoder=True, is_conditional=True, seed=1)


@pytest.fixture(scope="session")
def image_generation_service(image_generation_repository: Path) -> Iterator[RunningService]:
    """The service with the generators; tests must not change it."""
    with RunningService(image_generation_repository, "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def image_generation_client(image_generation_service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the service of generators."""
    with httpx.Client(base_url=image_generation_service.url, timeout=30) as client:
        yield client
