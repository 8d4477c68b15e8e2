"""A variant may serve where it loses no more than its task allows, and something says so."""

from __future__ import annotations

import msgspec
import pytest

from models.manifest import Agreement, Evaluation, Language, StateSpec, Variant
from models.variants import loss_of, obstacle
from tests.models.test_manifest import MANIFEST, VARIANT


def accuracy(value: float, *, dataset: str = "shoes", split: str = "test", count: int = 10_000) -> Evaluation:
    return Evaluation(metric="accuracy", value=value, dataset=dataset, split=split, count=count)


CLASSIFIER = msgspec.structs.replace(MANIFEST, evaluation=(accuracy(0.9521), accuracy(0.95, split="held-out")))


TEXTS = msgspec.structs.replace(
    MANIFEST,
    task="text-generation",
    tokenizer="tokenizer.json",
    language=Language(
        vocab_size=9, context=8, bos_token=0, eos_token=0, states=(StateSpec(name="h", datatype="FP32", shape=(4,)),)
    ),
)


def scored(*evaluation: Evaluation) -> Variant:
    return msgspec.structs.replace(VARIANT, evaluation=evaluation)


@pytest.mark.parametrize(("value", "is_eligible"), [(0.9521, True), (0.96, True), (0.9511, True), (0.951, False)])
def test_a_classifier_may_lose_a_tenth_of_a_percentage_point(value: float, is_eligible: bool) -> None:
    assert (obstacle(CLASSIFIER, scored(accuracy(value))) == "") == is_eligible


def test_another_limit_may_be_set() -> None:
    assert obstacle(CLASSIFIER, scored(accuracy(0.951)), 0.2) == ""
    assert "loses 0.1 percentage points; at most 0.05" in obstacle(CLASSIFIER, scored(accuracy(0.9511)), 0.05)


@pytest.mark.parametrize(
    "evaluation",
    [
        (),
        (accuracy(0.99, dataset="boots"),),
        (accuracy(0.99, count=100),),
        (accuracy(0.99, split="held-out"),),
    ],
)
def test_a_score_on_other_data_is_none(evaluation: tuple[Evaluation, ...]) -> None:
    assert loss_of(CLASSIFIER, scored(*evaluation)) is None
    assert "no score" in obstacle(CLASSIFIER, scored(*evaluation), 100.0)


def test_the_worst_of_several_scores_counts() -> None:
    manifest = msgspec.structs.replace(CLASSIFIER, evaluation=(accuracy(0.9), accuracy(0.8, dataset="boots")))
    assert loss_of(manifest, scored(accuracy(0.9), accuracy(0.7, dataset="boots"))) == pytest.approx(10)


@pytest.mark.parametrize(
    ("psnr", "loss", "is_eligible"),
    [(45.0, 0.5623, True), (40.0, 1.0, True), (39.0, 1.122, False), (None, None, False)],
)
def test_pictures_may_differ_by_forty_decibels(psnr: float | None, loss: float | None, is_eligible: bool) -> None:
    decoder = {"decoder": MANIFEST.graphs["model"]}
    manifest = msgspec.structs.replace(CLASSIFIER, task="image-generation", graphs=decoder)
    agreement = None if psnr is None else Agreement(metric="psnr", value=psnr, dataset="x", split="test", count=9)
    variant = msgspec.structs.replace(VARIANT, agreement=agreement)
    assert loss_of(manifest, variant) == (loss if loss is None else pytest.approx(loss, rel=1e-3))
    assert (obstacle(manifest, variant) == "") == is_eligible


def bits(value: float, split: str = "test", count: int = 10_000) -> Evaluation:
    return Evaluation(metric="bits_per_byte", value=value, dataset="novels", split=split, count=count)


@pytest.mark.parametrize(("value", "is_eligible"), [(1.4, True), (1.5049, True), (1.5051, False)])
def test_a_language_model_may_lose_five_thousandths_of_a_bit_per_byte(value: float, is_eligible: bool) -> None:
    manifest = msgspec.structs.replace(TEXTS, evaluation=(bits(1.5), bits(1.2, "validation")))
    assert (obstacle(manifest, scored(bits(value), bits(3.0, "validation"))) == "") == is_eligible


def test_a_text_without_a_test_part_is_scored_on_the_validation_part() -> None:
    manifest = msgspec.structs.replace(TEXTS, evaluation=(bits(1.5, "validation"),))
    assert loss_of(manifest, scored(bits(1.6, "validation"))) == pytest.approx(0.1)
    assert "loses 0.1 bits per byte; at most 0.005" in obstacle(manifest, scored(bits(1.6, "validation")))


def test_other_texts_or_measures_are_no_score() -> None:
    manifest = msgspec.structs.replace(TEXTS, evaluation=(bits(1.5), bits(1.2, "validation")))
    for other in (bits(1.5, count=9), bits(1.5, "validation"), accuracy(1.0)):
        assert loss_of(manifest, scored(other)) is None
