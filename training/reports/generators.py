"""The report of a generator: pictures, all scores beside their calibration, seeds, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from models.manifest import Manifest
from training.loop import Progress
from training.reports.page import Column, Panel, table, write_page
from training.scores.generators import METRIC, DistanceRow, GeneratorScores
from training.scores.likelihood import Estimate, LikelihoodScores
from training.studies.siblings import SeedScores, seed_table

# Pictures that lie in the run folder: heading, file, what they show.
Plate = tuple[str, str, str]

VAE_PANELS = (
    Panel(
        "distortion, nats a picture",
        (("distortion", "training"), ("held_out_distortion", "held out, averaged weights")),
    ),
    Panel("rate, nats a picture", (("rate", "training"), ("held_out_rate", "held out, averaged weights"))),
)
GAN_PANELS = (
    Panel("hinge loss", (("discriminator_loss", "discriminator"), ("generator_loss", "generator"))),
    Panel(
        "realness, as the discriminator has it",
        (("realness_of_real", "real"), ("realness_of_held_out", "real, held out"), ("realness_of_drawn", "drawn")),
    ),
)


def write_generator_report(
    output: Path,
    manifest: Manifest,
    progress: Progress,
    figures: Sequence[tuple[str, str]],
    plates: Sequence[Plate],
    scores: Mapping[str, GeneratorScores],
    likelihood: LikelihoodScores | None,
    seeds: Sequence[SeedScores],
) -> Path:
    """Write the page and its curves into `output`, where the plates lie already; returns the page."""
    panels = VAE_PANELS if "held_out_elbo" in progress.history[0] else GAN_PANELS
    names = [name for panel in panels for name, _ in panel.lines]
    return write_page(
        output,
        manifest,
        progress,
        figures=figures,
        sections=[
            *(f"## {heading}\n\n![{heading}]({file})\n\n{what}" for heading, file, what in plates),
            *_score_sections(scores, likelihood, seeds),
        ],
        panels=panels,
        columns=[Column(name, name.replace("_", " "), ".4g") for name in names],
    )


def _score_sections(
    scores: Mapping[str, GeneratorScores], likelihood: LikelihoodScores | None, seeds: Sequence[SeedScores]
) -> list[str]:
    if not scores and likelihood is None:
        return ["## Scores\n\nNot scored."]
    unscored = "Left out: no classifier was taught these classes at this size (see --classifier)."
    sections = ["## Scores of pictures\n\n" + (distance_section(scores) if scores else unscored)]
    sections += [
        f"## Labels: {drawn}\n\n" + agreement_table(found)
        for drawn, found in scores.items()
        if found.agreement is not None
    ]
    if likelihood is not None:
        sections.append("## Likelihood\n\n" + likelihood_section(likelihood))
    if seeds:
        sections.append("## Seeds\n\n" + seed_table(seeds))
    return sections


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


def likelihood_section(scores: LikelihoodScores) -> str:
    """Lay out the bounds in nats, the linear model's beside them, and the cross entropies that papers call loss."""
    count, few = f"{scores.count:,}", f"{scores.iwae_count:,}"
    of_few = scores.elbo_of_iwae_pictures
    rows = [
        ("rate", *_nats(scores.rate), count),
        ("distortion", *_nats(scores.distortion), count),
        ("**ELBO**", *_nats(scores.elbo), count),
        (f"ELBO of the pictures of IWAE-{scores.iwae_samples}", *_nats(of_few), few),
        (f"IWAE-{scores.iwae_samples}", *_nats(scores.iwae), few),
    ]
    if scores.linear is not None and scores.linear_at_latent is not None:
        linear = f"PCA with {scores.linear_components} components, chosen on held-out pictures: bound"
        at_latent = f"PCA with {scores.latent} components, as many as the latent: bound"
        rows += [(linear, *_nats(scores.linear), count), (at_latent, *_nats(scores.linear_at_latent), count)]
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
