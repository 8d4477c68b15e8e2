"""Images of one's own, from a folder to versions that the service loads: trained, replaced, published, fine-tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from models.manifest import read_manifest
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.training.data.test_folders import classes, picture
from training import train_classifier, train_gan, train_vae
from training.data.datasets import Normalization, as_images
from training.export.exported import load_parts, read_classifier_weights
from training.export.version import DEFAULT_REPOSITORY, Destination, ModelCard
from training.loop import CHECKPOINT_FILE, read_checkpoint
from training.networks.gan import Discriminator, GanShape, Generator
from training.networks.resnet import ARCHITECTURES, ResNet, num_halvings
from training.networks.vae import Vae, VaeShape

SMALL = ["--network", "tiny", "--epochs", "2", "--batch-size", "8", "--threads", "1", "--image-size", "28"]


class Shop:
    """A folder of three kinds of fruit, and what is trained on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.data = classes(folder / "Fruit & more", "apple", "fig", "pear", count=15)

    def main(self, output: str, *more: str, data: Path | None = None) -> int:
        where = {"--data": data or self.data, "--output": self.folder / output, "--repository": self.repository}
        return train_classifier.main(
            [text for flag, path in where.items() for text in (flag, str(path))] + [*SMALL, *more]
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    assert made.main("first") == 0
    return made


def test_labels_travel_to_a_version_that_the_service_loads(shop: Shop) -> None:
    folder = shop.repository / "fruit-more" / "1"
    manifest = read_manifest(folder)

    assert manifest.labels == ("apple", "fig", "pear")
    assert (manifest.light_on_dark, manifest.margin) == (False, 0.0)
    assert manifest.description == "A residual CNN for the 3 classes of the images Fruit & more."
    loaded = load_version(folder, Settings(instances=1, threads=1, precision="fp32"), Device("cpu"))
    assert loaded.graphs["model"].golden_error is not None
    assert len(load_parts(manifest, shop.data, shop.folder).held_out) == 4


def test_a_version_is_replaced_by_one_that_scores_no_worse(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    model = shop.repository / "fruit-more"
    assert shop.main("first", "--resume", "--replace") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "accuracy (test)" in said
    assert "it is replaced" in said
    assert [folder.name for folder in model.iterdir()] == ["1"]


def test_a_version_that_scored_better_or_on_other_data_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = read_manifest(DEFAULT_REPOSITORY / "mnist" / "1")
    assert shipped.training is not None
    (tmp_path / "mnist").symlink_to(DEFAULT_REPOSITORY / "mnist")
    first = shipped.evaluation[0]
    worse = type(first)(metric=first.metric, value=0.33, dataset=first.dataset, split=first.split, count=3)
    elsewhere = type(first)(metric=first.metric, value=1.0, dataset="mine", split=first.split, count=3)
    for evaluation, verdict in (
        (worse, "it stays, and the new one gets the next version"),
        (elsewhere, "scored on other data"),
    ):
        card = ModelCard(
            name="", version="1", task="", description="", evaluation=(evaluation,), training=shipped.training
        )
        made = Destination(repository=tmp_path, name="mnist", replace="better").card(card)
        assert (made.version, made.replaces) == ("2", False)
        assert verdict in capsys.readouterr().out
        made = Destination(repository=tmp_path, name="mnist", replace="always").card(card)
        assert (made.version, made.replaces) == ("1", True)


def test_a_finished_version_is_published_to_another_repository(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    polled = shop.folder / "polled"
    for version in ("1", "2"):
        assert shop.main("first", "--resume", "--replace", "always", "--publish", str(polled)) == 0
        assert f"published as {polled / 'fruit-more' / version}" in capsys.readouterr().out
    assert read_manifest(polled / "fruit-more" / "2").version == "2"


def test_other_classes_begin_with_what_a_version_has_learnt(shop: Shop, tmp_path: Path) -> None:
    data = classes(tmp_path / "tools", "axe", "saw", count=12)
    start = str(shop.repository / "fruit-more" / "1")
    assert shop.main("second", "--start-from", start, "--epochs", "3", data=data) == 0

    manifest = read_manifest(shop.repository / "tools" / "1")
    assert manifest.training is not None
    assert manifest.training.config["start_from"] == "fruit-more@1"
    assert manifest.training.config["frozen_epochs"] == 2
    began = read_checkpoint(shop.folder / "first" / CHECKPOINT_FILE)["progress"]["best_weights"]
    names = [name for name in began if name.startswith("features") and name.endswith("0.weight")]
    ended = read_checkpoint(shop.folder / "second" / CHECKPOINT_FILE)["network"]
    assert names
    assert all(0 < float((ended[name] - began[name]).norm() / began[name].norm()) < 2 for name in names)


def test_the_head_alone_learns_while_the_rest_is_frozen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 1)).astype(np.uint8)
    images = as_images(pixels, np.arange(32) % 2)
    config = train_classifier.configure(
        {"dataset": None, "network": "tiny", "epochs": 3, "frozen_epochs": 1, "batch_size": 16}
    )
    network = ResNet(ARCHITECTURES["tiny"], 1, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trainer = train_classifier.ClassifierTrainer(network, config, images, images, torch.device("cpu"))

    trainer._take_step(0)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    trainer._take_step(2)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"features.0.0.weight", "features.0.1.running_mean"} <= changed


@pytest.mark.parametrize("model", ["mnist", "fashion-mnist", "cifar10"])
def test_the_weights_of_a_shipped_classifier_are_read_back_from_its_graph(model: str) -> None:
    start = train_classifier.read_start(Path(model), DEFAULT_REPOSITORY)
    manifest = read_manifest(DEFAULT_REPOSITORY / model / "1")
    network = ResNet(ARCHITECTURES[start.network], start.channels, 10)
    network.load_state_dict(read_classifier_weights(DEFAULT_REPOSITORY / model / "1"))
    session = session_of(model)
    assert (start.side, start.labels) == (manifest.graphs["model"].inputs[0].shape[1], manifest.labels)

    image = np.random.default_rng(0).integers(0, 256, (3, start.side, start.side, start.channels), np.uint8)
    (embedding,) = session.run(["embedding"], {"image": image})
    gain, offset = (torch.from_numpy(constants_of(model)[name]) for name in ("gain", "offset"))
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() * gain - offset
    with torch.no_grad():
        pooled = network.eval().features(pixels).mean((2, 3))
    np.testing.assert_allclose(torch.nn.functional.normalize(pooled).numpy(), embedding, atol=2e-5)


def session_of(model: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        DEFAULT_REPOSITORY / model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )


def constants_of(model: str) -> dict[str, NDArray[np.float32]]:
    graph = onnx.load(DEFAULT_REPOSITORY / model / "1" / "model.onnx").graph
    return {each.name: numpy_helper.to_array(each).copy() for each in graph.initializer}


def test_what_a_run_cannot_start_from_is_said(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.main("third", "--start-from", str(tmp_path / "nowhere.pt")) == 2
    assert "it must be a model of" in capsys.readouterr().err
    assert shop.main("third", "--start-from", str(shop.folder / "first" / CHECKPOINT_FILE), "--network", "digit") == 2
    assert "is of another network: features." in capsys.readouterr().err
    assert not (shop.folder / "third").exists()


def test_a_dry_run_looks_at_the_data(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.main("dry", "--dry-run") == 0
    assert "classes: 'apple', 'fig', 'pear'" in capsys.readouterr().out
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"")
    assert shop.main("dry", "--dry-run", data=tmp_path) == 2
    assert "1 of 1 images cannot be read" in capsys.readouterr().err


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.png", 100)
    assert train_classifier.main(["--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "the images are of 1 class; a classifier needs at least two" in capsys.readouterr().err
    assert train_classifier.main([]) == 2
    assert "neither --dataset nor --data is given" in capsys.readouterr().err


GENERATORS = {
    "vae": (train_vae.main, ["--width", "2", "--mixture-components", "2"]),
    "gan": (train_gan.main, ["--generator-width", "2", "--discriminator-width", "2"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_of_unlabelled_images_is_scored_by_what_needs_no_classifier(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, settings = GENERATORS[kind]
    for number in range(24):
        picture(tmp_path / "cats" / f"{number}.png", 8 * number, size=(70 + number, 64))
    where = ["--data", str(tmp_path / "cats"), "--output", str(tmp_path / "run"), "--repository", str(tmp_path / "r")]
    small = ["--num-steps", "2", "--evaluate-every", "1", "--batch-size", "4", "--latent", "3", "--threads", "1"]
    assert main([*where, *small, *settings]) == 0

    assert "so distances of pictures and scores by label are left out" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "r" / f"cats-{kind}" / "1")
    assert manifest.labels == ("image",)
    assert [each.metric for each in manifest.evaluation if "ELBO" in each.metric] != [] or kind == "gan"
    assert manifest.graphs["decoder"].outputs[0].shape == (-1, 64, 64, 3)
    loaded = load_version(tmp_path / "r" / f"cats-{kind}" / "1", Settings(instances=1, threads=1), Device("cpu"))
    assert loaded.graphs["decoder"].golden_error is not None


@pytest.mark.parametrize(("side", "halvings"), [(28, 0), (40, 0), (64, 1), (128, 2), (224, 3)])
def test_networks_deepen_with_the_size(side: int, halvings: int) -> None:
    network = ResNet(ARCHITECTURES["tiny"], 3, 4, halvings=num_halvings(side))
    assert num_halvings(side) == halvings
    assert network.features(torch.zeros(1, 3, side, side)).shape[-1] <= 10
    vae = Vae(VaeShape(side=side, channels=3, latent=2, width=2))
    assert vae(torch.zeros(2, 3, side, side), torch.zeros(2), torch.zeros(2, 2))[2].shape == (2, 3, side, side)
    shape = GanShape(side=side, channels=3, latent=2, num_labels=2, generator_width=2, discriminator_width=2)
    assert 5 <= shape.smallest_side <= 10
    drawn = Generator(shape)(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    assert Discriminator(shape)(drawn, torch.zeros(2, dtype=torch.long)).shape == (2,)


def test_a_side_that_cannot_be_halved_is_refused_with_one_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.png", 100)
    assert train_vae.main(["--data", str(tmp_path), "--image-size", "70", "--output", str(tmp_path / "run")]) == 2
    assert "a side that 8 divides: --image-size 72" in capsys.readouterr().err


def test_a_classifier_of_other_classes_scores_no_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.png", 100)
    flags = ["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--image-size", "28", "--channels", "grey"]
    assert train_gan.main([*flags, "--classifier", str(DEFAULT_REPOSITORY / "mnist" / "1")]) == 2
    assert "the data has ('image',)" in capsys.readouterr().err


def test_brightness_is_measured_without_a_copy_in_floats() -> None:
    levels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels[:, 1] //= 3
    exact = levels.double() / 255
    found = Normalization.of(levels)
    assert torch.allclose(found.mean.double(), exact.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(found.std.double(), exact.std((0, 2, 3)), atol=1e-7)
    assert Normalization.of(torch.zeros(4, 1, 2, 2, dtype=torch.uint8)).std > 0
