"""The scores of a generator as sections of its report, each with what it was measured on.

It owns words and layout; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from training.generators.likelihood_scores import Estimate, LikelihoodScores
from training.generators.scoring import METRIC, DistanceRow, GeneratorScores
from training.generators.siblings import SeedScores, mean_and_spread
from training.markdown import table

_SEED_FIGURES: tuple[tuple[str, Callable[[SeedScores], float], str], ...] = (
    (METRIC, lambda scores: scores.row.frechet, ".3g"),
    ("KID x 1000", lambda scores: 1000 * scores.row.kernel, ".2f"),
    ("precision", lambda scores: scores.row.precision, ".3f"),
    ("recall", lambda scores: scores.row.recall, ".3f"),
    ("called by their label", lambda scores: scores.agreement, ".2%"),
    ("accuracy of a classifier taught by them", lambda scores: scores.accuracy_from_generated, ".2%"),
)


def distance_section(scores: Mapping[str, GeneratorScores]) -> str:
    """Lay out the calibration rows, once, and the row of every way to draw."""
    first = next(iter(scores.values()))
    rows = [_distance_cells(row.name, row, first.floor) for row in first.rows[:-1]]
    rows += [_distance_cells(f"**{drawn}**", each.generated, each.floor) for drawn, each in scores.items()]
    header = ("pictures", "count", METRIC, "times the floor", "KID x 1000", "precision", "recall")
    return table(header, rows) + "\n\n" + _how_measured(first)


def _distance_cells(name: str, row: DistanceRow, floor: DistanceRow) -> tuple[str, ...]:
    return (
        name,
        f"{row.count:,}",
        f"{row.frechet:.3g}",
        f"{row.frechet / floor.frechet:.1f}",
        f"{1000 * row.kernel:.2f} ± {1000 * row.kernel_error:.2f}",
        f"{row.precision:.3f}",
        f"{row.recall:.3f}",
    )


def _how_measured(scores: GeneratorScores) -> str:
    return (
        f"All rows are against the {scores.num_reference:,} test pictures, in the embedding (of unit length) of this "
        "project's own classifier, which was trained on the train split alone and taught no generator "
        f"(SHA-256 {scores.classifier_sha256}). The {METRIC} is not the distance that papers report, whose features "
        "are an ImageNet network's; it compares only with the rows beside it. The floor is the row of real train "
        "pictures. KID: unbiased, cubic kernel, with its standard error over blocks. Precision and recall: by the "
        "third nearest neighbours."
    )


def agreement_table(scores: GeneratorScores) -> str:
    """Lay out what needs labels: agreement by class, and what a classifier learns from the pictures alone."""
    assert scores.agreement is not None
    assert scores.class_agreement is not None
    rows = [(label, f"{share:.2%}") for label, share in zip(scores.labels, scores.class_agreement, strict=True)]
    parts = [table(("class", "called by their label"), [*rows, ("**all**", f"**{scores.agreement:.2%}**")])]
    if scores.accuracy_from_generated is not None:
        taught = f"A classifier trained on generated pictures alone is right on {scores.accuracy_from_generated:.2%}"
        ceiling = scores.accuracy_from_real
        beside = "" if ceiling is None else f" (the same lesson on real train pictures: {ceiling:.2%})"
        parts.append(f"{taught} of the {scores.num_reference:,} real test pictures{beside}.")
    return "\n\n".join(parts)


def seed_section(seeds: Sequence[SeedScores]) -> str:
    """Lay out the figures of every seed, their mean and their spread."""
    header = ("seed", *(name for name, _, _ in _SEED_FIGURES))
    rows = [
        (str(scores.seed), *(format(figure(scores), form) for _, figure, form in _SEED_FIGURES))
        for scores in sorted(seeds, key=lambda scores: scores.seed)
    ]
    summary = [(mean_and_spread(seeds, figure), form) for _, figure, form in _SEED_FIGURES]
    cells = [f"**{format(mean, form)} ± {format(spread, form)}**" for (mean, spread), form in summary]
    return table(header, [*rows, ("**mean ± standard deviation**", *cells)])


def likelihood_section(scores: LikelihoodScores) -> str:
    """Lay out the bounds in nats, the linear model's beside them, and the cross entropies that papers call loss."""
    count, few = f"{scores.count:,}", f"{scores.iwae_count:,}"
    linear = f"PCA with {scores.linear_components} components, chosen on held-out pictures"
    of_few = scores.elbo_of_iwae_pictures
    rows = [
        ("rate", *_nats(scores.rate), count),
        ("distortion", *_nats(scores.distortion), count),
        ("**ELBO**", *_nats(scores.elbo), count),
        (f"ELBO of the pictures of IWAE-{scores.iwae_samples}", *_nats(of_few), few),
        (f"IWAE-{scores.iwae_samples}", *_nats(scores.iwae), few),
        (f"{linear}: bound", *_nats(scores.linear), count),
        (f"PCA with {scores.latent} components, as many as the latent: bound", *_nats(scores.linear_at_latent), count),
    ]
    floor = scores.cross_entropy_floor
    return (
        table(("test", "nats a picture", "standard error", "pictures"), rows)
        + f"\n\nThe ELBO is {scores.bits_a_value:.3f} bits for each of the {scores.num_values} values of a picture: a "
        "code length of their 256 levels, which has no floor of its own. Where grey levels are taken as probabilities "
        f"instead, {floor:.2f} nats of the cross entropy are the entropy of the pictures themselves: the "
        f"reconstructions have {scores.cross_entropy:.2f} ({scores.cross_entropy - floor:.2f} above that floor), the "
        f"mean picture {scores.cross_entropy_of_mean_picture:.2f} "
        f"({scores.cross_entropy_of_mean_picture - floor:.2f} above it)."
    )


def _nats(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.mean:.2f}", f"{estimate.error:.2f}"
