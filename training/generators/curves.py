"""The learning curves of a generator's training, one panel a subject. It owns the panels of either kind of run."""

from __future__ import annotations

from matplotlib.figure import Figure

from training.generators.stretches import Progress

# A panel: its y axis, and lines as (name in the history, label).
Panel = tuple[str, tuple[tuple[str, str], ...]]
VAE_PANELS: tuple[Panel, ...] = (
    ("distortion, nats a picture", (("distortion", "training"), ("held_out_distortion", "held out, averaged weights"))),
    ("rate, nats a picture", (("rate", "training"), ("held_out_rate", "held out, averaged weights"))),
)
GAN_PANELS: tuple[Panel, ...] = (
    ("hinge loss", (("discriminator_loss", "discriminator"), ("generator_loss", "generator"))),
    (
        "realness, as the discriminator has it",
        (("realness_of_real", "real"), ("realness_of_held_out", "real, held out"), ("realness_of_drawn", "drawn")),
    ),
)


def panels_of(progress: Progress) -> tuple[Panel, ...]:
    """The panels that the history of a run has lines for."""
    return VAE_PANELS if progress.history and "held_out_elbo" in progress.history[0] else GAN_PANELS


def draw_curves(progress: Progress) -> Figure:
    """Draw the history by step, on white, so that it is legible on a dark page, too."""
    panels = panels_of(progress)
    figure = Figure(figsize=(10, 4), layout="constrained")
    steps = [row["step"] for row in progress.history]
    # A history of one row is a point and no line.
    marker = "o" if len(steps) < 3 else None
    for axes, (subject, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, label in lines:
            axes.plot(steps, [row[name] for row in progress.history], label=label, marker=marker)
        axes.set(xlabel="step", ylabel=subject)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
