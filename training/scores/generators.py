"""Scores a generator by its pictures: distances to the test split in a classifier's features, beside calibration rows.

The distance is the Fréchet distance of the features of this project's own classifier, trained on the train split alone:
it compares with nothing measured in other features. Two further scores need labels: whether the classifier calls a
picture by its label, and what a classifier learns from the pictures alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.manifest import read_manifest
from training.data.datasets import Dataset, DatasetName, Images, as_images
from training.losses import to_levels
from training.networks.gan import Generator
from training.networks.mixture import Mixture
from training.networks.resnet import ARCHITECTURES, ResNet, num_halvings
from training.networks.vae import Vae
from training.scores.classification import predict_logits, score
from training.scores.distances import frechet_distance, kernel_distance, precision_and_recall
from training.scores.measured import Measured
from training.train_classifier import RECIPES, ClassifierConfig, ClassifierTrainer

# (labels [B], seed) -> levels uint8 [B,C,H,W]: all that a score needs of a generator.
Draw = Callable[[Tensor, int], Tensor]
METRIC = "Fréchet classifier-feature distance"
REAL, BLURRED, MODE_DROPPED = "real train pictures", "test pictures, blurred", "test pictures without a class"
GENERATED = "generated pictures"
# A blur that an eye hardly sees at this size: a distance that does not see it either is blind.
_BLUR_PIXELS = 1.0
# Far from the seeds of training, and from each other: no picture is scored that was drawn before.
_SAMPLES_SEED, _LESSON_SEED = 1_000_000_000, 2_000_000_000
_BATCH_ROWS = 250
_CPU = torch.device("cpu")
# The graph of an exported classifier, and what is used of it.
_GRAPH, _INPUT, _OUTPUTS = "model", "image", ("embedding", "probabilities")


def draw_from_gan(generator: Generator) -> Draw:
    """Draw from standard normal latents."""

    @torch.no_grad()
    def draw(labels: Tensor, seed: int) -> Tensor:
        # Drawn by the averaged generator with fixed statistics: a picture depends on its latent and label alone.
        generator.eval()
        latents = torch.randn(len(labels), generator.shape.latent, generator=torch.Generator().manual_seed(seed))
        device = next(generator.parameters()).device
        return to_levels(generator(latents.to(device), labels.to(device))).cpu()

    return draw


def draw_from_vae(network: Vae, prior: Mixture | None) -> Draw:
    """Draw from the fitted prior, or from the standard normal one where there is none; pixels are the locations."""

    @torch.no_grad()
    def draw(labels: Tensor, seed: int) -> Tensor:
        # Pixels are the locations of their distributions, not draws from them: drawing each pixel by itself would add
        # noise that no picture has.
        network.eval()
        generator = torch.Generator().manual_seed(seed)
        if prior is None:
            latents = torch.randn(len(labels), network.shape.latent, generator=generator)
        else:
            latents = prior.draw(labels, generator)
        device = next(network.parameters()).device
        location, _ = network.decoder(latents.to(device), network.one_hot(labels.to(device)))
        return to_levels(location).cpu()

    return draw


def draw_many(draw: Draw, labels: Tensor, seed: int, title: str) -> Tensor:
    """Draw one picture for each of many labels, batch after batch with a seed each, counted up from `seed`."""
    batches = torch.split(labels, _BATCH_ROWS)
    with tqdm(total=len(labels), desc=title, unit="picture") as bar:
        drawn = []
        # A seed for each batch: the first thousand pictures are the same whether ten or sixty thousand follow.
        for place, batch in enumerate(batches):
            drawn.append(draw(batch, seed + place))
            bar.update(len(batch))
    return torch.cat(drawn)


def identity_of(*parts: nn.Module) -> str:
    """Hash the trained weights of networks, and of a prior, with SHA-256.

    Normalisation statistics are left out: where they are computed anew, they differ in the last bit by machine.
    """
    digest = hashlib.sha256()
    for part in parts:
        for name, tensor in part.named_parameters():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Embeddings float64 [B,D], and the class [B] that each picture is called."""

    embeddings: Tensor
    called: Tensor


class FeatureNetwork:
    """An exported classifier in ONNX Runtime, on the CPU with torch's number of threads."""

    def __init__(self, classifier: Path) -> None:
        """Open the version in this folder."""
        graph = read_manifest(classifier).graphs[_GRAPH]
        options = onnxruntime.SessionOptions()
        # The features are those of the graph as it ships, run as the service runs it.
        options.intra_op_num_threads = torch.get_num_threads()
        # Spinning threads would take the processor from whatever trains beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sha256 = graph.sha256
        self.session = onnxruntime.InferenceSession(
            classifier / graph.file, options, providers=["CPUExecutionProvider"]
        )

    def features(self, levels: Tensor, title: str) -> Features:
        """Run uint8 pictures [B,C,H,W] through the classifier."""
        embeddings, called = [], []
        with tqdm(total=len(levels), desc=title, unit="picture") as bar:
            for batch in torch.split(levels, _BATCH_ROWS):
                images = batch.permute(0, 2, 3, 1).contiguous().numpy()
                embedding, probabilities = self.session.run(_OUTPUTS, {_INPUT: images})
                embeddings.append(torch.from_numpy(embedding).double())
                called.append(torch.from_numpy(probabilities).argmax(1))
                bar.update(len(batch))
        return Features(embeddings=torch.cat(embeddings), called=torch.cat(called))


def blurred(levels: Tensor, sigma_pixels: float) -> Tensor:
    """Blur uint8 pictures [B,C,H,W] with a Gaussian, mirrored at the borders."""
    # Beyond four standard deviations a Gaussian weighs nothing.
    radius = int(4 * sigma_pixels + 0.5)
    places = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (places / sigma_pixels) ** 2)
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    batch, channels, height, width = levels.shape
    planes = levels.float().view(batch * channels, 1, height, width)
    # A Gaussian of two dimensions is one of rows and then one of columns: 2 n products a pixel instead of n².
    planes = functional.conv2d(functional.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel)
    planes = functional.conv2d(functional.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3))
    return planes.round().clamp(0, 255).to(torch.uint8).view_as(levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierLesson:
    """A short training, the same for every set of pictures; `held_out` of the given pictures select the epoch."""

    network: Literal["tiny", "digit", "garment", "object"] = "garment"
    epochs: int = 3
    held_out: int = 5_000
    batch_size: int = 512
    seed: int = 0

    def config(self, recipe: DatasetName) -> ClassifierConfig:
        """The data set's recipe, cut short: without what only a long training profits from."""
        return dataclasses.replace(
            RECIPES[recipe],
            network=self.network,
            epochs=self.epochs,
            held_out=self.held_out,
            batch_size=self.batch_size,
            seed=self.seed,
            erase_probability=0.0,
            evaluate_every=1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)


def accuracy_on_test(
    pictures: Images,
    test: Images,
    recipe: DatasetName,
    lesson: ClassifierLesson,
    folder: Path,
    device: torch.device = _CPU,
) -> float:
    """Train on the pictures and return the accuracy on test, in float32.

    The checkpoint lies in `folder` while it trains, from which an interrupted lesson continues; it is removed at the
    end. The folder must belong to these very pictures.
    """
    # If pictures are like real ones and as varied, a classifier that never saw a real one tells real ones apart: the
    # score misses neither bad pictures nor missing kinds (Ravuri & Vinyals 2019).
    config = lesson.config(recipe)
    # The last pictures are held out: they need no shuffling, for generated pictures have no order.
    num_kept = min(lesson.held_out, len(pictures) // 2)
    rows = torch.arange(len(pictures))
    torch.manual_seed(config.seed)
    num_labels = int(test.labels.max()) + 1
    channels, side = pictures.levels.shape[1:3]
    network = ResNet(ARCHITECTURES[config.network], channels, num_labels, config.dropout, halvings=num_halvings(side))
    trainer = ClassifierTrainer(
        network, config, pictures.take(rows[:-num_kept]), pictures.take(rows[-num_kept:]), device
    )
    trainer.open(folder, resume=True)
    trainer.run(folder)
    logits = predict_logits(network, test.levels, trainer.normalize, device)
    shutil.rmtree(folder)
    return score(logits.numpy(), test.labels.numpy()).accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """How many pictures are drawn for what; `lesson_of_real` also trains the same classifier on real pictures."""

    num_samples: int = 10_000
    num_lesson: int = 60_000
    lesson: ClassifierLesson = field(default_factory=ClassifierLesson)
    lesson_of_real: bool = False

    def to_json(self) -> dict[str, Any]:
        """What decides a figure, as JSON values."""
        values = dataclasses.asdict(self)
        del values["lesson_of_real"]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceRow:
    """Images against the test split; the kernel distance (KID) has a standard error, as its blocks differ."""

    name: str
    count: int
    frechet: float
    kernel: float
    kernel_error: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorScores:
    """All rows, the generated pictures' last; what needs labels is None for pictures drawn without them.

    `agreement` is the share of pictures that the classifier calls by their label, `class_agreement` by class (not a
    number for a class without test pictures);
    `accuracy_from_generated` is that of a classifier trained on generated pictures alone, on real test pictures, and
    `accuracy_from_real` its ceiling: the same lesson on the real train part.
    """

    classifier_sha256: str
    num_reference: int
    labels: tuple[str, ...]
    rows: tuple[DistanceRow, ...]
    agreement: float | None
    class_agreement: tuple[float, ...] | None
    accuracy_from_generated: float | None
    accuracy_from_real: float | None

    @property
    def generated(self) -> DistanceRow:
        """The row of the generated pictures."""
        return self.rows[-1]

    @property
    def floor(self) -> DistanceRow:
        """The row of real pictures, which no generator need beat."""
        return self.rows[0]

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GeneratorScores:
        """Read what `to_json` made, also after a way through a file."""
        by_class = values["class_agreement"]
        changed = {
            "labels": tuple(values["labels"]),
            "rows": tuple(DistanceRow(**row) for row in values["rows"]),
            "class_agreement": None if by_class is None else tuple(by_class),
        }
        return cls(**(values | changed))


def score_generator(
    draw: Draw,
    dataset: Dataset,
    classifier: Path,
    cache: Path,
    *,
    recipe: DatasetName,
    identity: str,
    section: str = "generator",
    labelled: bool = True,
    plan: ScoringPlan | None = None,
    device: torch.device = _CPU,
) -> GeneratorScores:
    """Score what `draw` draws; `cache` is a scores file, from which all that was measured before is read.

    `classifier` is the folder of an exported version; `recipe` names its data set's settings; `identity` is the hash
    of what draws (see `identity_of`); `section` tells several generators of one run apart; `labelled` says whether a
    picture is of the label that it was asked for. Classifiers are taught on `device`.
    """
    plan = plan or ScoringPlan()
    scorer = _Scorer(dataset, FeatureNetwork(classifier), recipe, plan, cache.parent, device)
    shared = {"classifier_sha256": scorer.network.sha256, "dataset_sha256": dataset.sha256()} | plan.to_json()
    real = Measured(cache, "calibration", shared)
    drawn = Measured(cache, section, shared | {"identity": identity})
    # Three rows that say what a distance means: real pictures are the floor; blurred ones and ones that lack a class
    # are known to be bad, in looks and in variety.
    rows = [real.piece(name, partial(scorer.calibrate, name)) for name in (REAL, BLURRED, MODE_DROPPED)]
    of_drawn = drawn.piece("pictures", lambda: scorer.score_pictures(draw))
    # What needs labels is left out where pictures were drawn without them.
    learnt = learnt_of_real = None
    if labelled:
        learnt = drawn.piece("accuracy_from_generated", lambda: scorer.teach_drawn(draw, identity))
        if plan.lesson_of_real:
            learnt_of_real = real.piece("accuracy_from_real", scorer.teach_real)
    return GeneratorScores(
        classifier_sha256=scorer.network.sha256,
        num_reference=len(dataset.test_labels),
        labels=dataset.labels,
        rows=tuple(DistanceRow(**row) for row in (*rows, of_drawn["row"])),
        agreement=of_drawn["agreement"] if labelled else None,
        class_agreement=tuple(of_drawn["class_agreement"]) if labelled else None,
        accuracy_from_generated=learnt,
        accuracy_from_real=learnt_of_real,
    )


class _Scorer:
    """Measures the pieces; the features of the test split are computed once, when first needed."""

    def __init__(
        self,
        dataset: Dataset,
        network: FeatureNetwork,
        recipe: DatasetName,
        plan: ScoringPlan,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.train = as_images(dataset.train_images, dataset.train_labels)
        self.test = as_images(dataset.test_images, dataset.test_labels)
        self.network, self.recipe, self.plan, self.folder, self.device = network, recipe, plan, folder, device
        self.label_names = dataset.labels

    @cached_property
    def reference(self) -> Tensor:
        """The features of the test split."""
        return self.network.features(self.test.levels, "features of test").embeddings

    def calibrate(self, name: str) -> dict[str, Any]:
        """Measure real pictures, as they are or spoilt in a known way."""
        if name == MODE_DROPPED:
            return self._drop_least_missed_class()
        levels = self.train.levels[: self.plan.num_samples] if name == REAL else blurred(self.test.levels, _BLUR_PIXELS)
        return self._row(name, self.network.features(levels, f"features of {name}").embeddings)

    def _drop_least_missed_class(self) -> dict[str, Any]:
        """Leave out the class whose loss shows least in the Fréchet distance: the strictest of such rows."""
        # Dropping the class that shows most would be easy to see; the distance is judged by the one that shows least.
        present = sorted(set(self.test.labels.tolist()))
        candidates = {label: self.reference[without_class(self.test.labels, label)] for label in present}
        distances = {label: frechet_distance(features, self.reference) for label, features in candidates.items()}
        missing = min(present, key=lambda label: distances[label])
        return self._row(f"{MODE_DROPPED} ({self.label_names[missing]})", candidates[missing])

    def score_pictures(self, draw: Draw) -> dict[str, Any]:
        """Draw pictures of the test split's labels and measure them."""
        # In the proportions of the test split: else the distance would count labels, not pictures.
        labels = cycled(self.test.labels, self.plan.num_samples)
        levels = draw_many(draw, labels, _SAMPLES_SEED, "drawing to score")
        features = self.network.features(levels, "features of drawn")
        # The classifier is not always right about real pictures either: its accuracy on test is the ceiling here.
        agrees = (features.called == labels).double()
        return {
            "row": self._row(GENERATED, features.embeddings),
            "agreement": float(agrees.mean()),
            "class_agreement": [float(agrees[labels == label].mean()) for label in range(len(self.label_names))],
        }

    def teach_drawn(self, draw: Draw, identity: str) -> float:
        """Draw a training set of the train split's labels and measure what a classifier learns from it alone."""
        labels = cycled(self.train.labels, self.plan.num_lesson)
        levels = draw_many(draw, labels, _LESSON_SEED, "drawing to teach")
        return self._teach(Images(levels=levels, labels=labels), f"lesson-{identity[:12]}")

    def teach_real(self) -> float:
        """Measure what a classifier learns from as many real pictures."""
        return self._teach(self.train.take(torch.arange(len(self.train))[: self.plan.num_lesson]), "lesson-real")

    def _teach(self, pictures: Images, name: str) -> float:
        folder = self.folder / name
        return accuracy_on_test(pictures, self.test, self.recipe, self.plan.lesson, folder, self.device)

    def _row(self, name: str, features: Tensor) -> dict[str, Any]:
        row = compare(name, features, self.reference)
        tqdm.write(f"{name}: {METRIC} {row.frechet:.4g}, precision {row.precision:.3f}, recall {row.recall:.3f}")
        return dataclasses.asdict(row)


def cycled(labels: Tensor, count: int) -> Tensor:
    """Take `count` labels in the proportions of a real part, by going through it again and again."""
    return labels[torch.arange(count) % len(labels)]


def without_class(labels: Tensor, label: int) -> Tensor:
    """The rows of all other classes, with as many of them again, in order, as there were of this one."""
    # Filled up to the old number: some distances depend on how many features there are.
    kept = (labels != label).nonzero()[:, 0]
    return kept[torch.arange(len(labels)) % len(kept)]


def compare(name: str, pictures: Tensor, reference: Tensor) -> DistanceRow:
    """Measure features [B,D] against those of the reference."""
    kernel, kernel_error = kernel_distance(pictures, reference)
    precision, recall = precision_and_recall(pictures, reference)
    return DistanceRow(
        name=name,
        count=len(pictures),
        frechet=frechet_distance(pictures, reference),
        kernel=kernel,
        kernel_error=kernel_error,
        precision=precision,
        recall=recall,
    )
