"""Which variants of a version may serve in the place of fp32, by what they lose.

It knows neither graphs nor devices: how fast a variant is, shows where it runs.

A loss is in percentage points of accuracy for classifiers, and in bits per byte for language models. For pictures it is
the root mean square difference from those of fp32 in percent of the range, so that a PSNR of 40 dB is a loss of 1.
"""

from __future__ import annotations

from models.manifest import Manifest, Variant

MAX_LOSS = {"image-classification": 0.1, "text-generation": 0.005, "style-transfer": 1.0, "image-generation": 1.0}
"""The largest loss at which a variant is as good as fp32, by task."""

_PICTURES = ("style-transfer", "image-generation")


def loss_of(manifest: Manifest, variant: Variant) -> float | None:
    """What a variant loses against fp32; None where nothing says so."""
    if manifest.task in _PICTURES:
        agreement = variant.agreement
        return 100 * 10 ** (-agreement.value / 20) if agreement and agreement.metric == "psnr" else None
    metric, factor = ("bits_per_byte", -1) if manifest.task == "text-generation" else ("accuracy", 100)
    measured = [each for each in manifest.evaluation if each.metric == metric]
    # A text without a test part is scored on the validation part.
    split = "test" if factor > 0 or any(each.split == "test" for each in measured) else "validation"
    scores = {(each.dataset, each.count): each.value for each in measured if each.split == split}
    losses = [
        factor * (scores[each.dataset, each.count] - each.value)
        for each in variant.evaluation
        if (each.metric, each.split) == (metric, split) and (each.dataset, each.count) in scores
    ]
    return max(losses, default=None)


def obstacle(manifest: Manifest, variant: Variant, max_loss: float | None = None) -> str:
    """Why a variant may not serve in the place of fp32, in words; empty where it may."""
    loss, most = loss_of(manifest, variant), MAX_LOSS.get(manifest.task, 0.0) if max_loss is None else max_loss
    if loss is None:
        return "it has no score on the test set of fp32"
    # A hundredth of an image in ten thousand: what rounding leaves of a difference that is allowed.
    if loss > most + 1e-6:
        return f"it loses {loss:.3g} {unit_of(manifest)}; at most {most:.3g} are allowed"
    return ""


def told_with_obstacle(told: str, manifest: Manifest, variant: Variant) -> str:
    """What is told of a variant, and on a line of its own why the service will not choose it, if it will not."""
    reason = obstacle(manifest, variant)
    return f"{told}\nthe service will not choose it by itself: {reason}" if reason else told


def unit_of(manifest: Manifest) -> str:
    """The unit of a loss, in words."""
    if manifest.task in _PICTURES:
        return "% of the range"
    return "bits per byte" if manifest.task == "text-generation" else "percentage points"
