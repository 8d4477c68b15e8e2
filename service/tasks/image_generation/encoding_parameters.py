"""What a caller may ask of an encoder of pictures: the parameters with their ranges. It knows no graph."""

from __future__ import annotations

from service.tasks.image_generation.latents import NUM_SEEDS
from service.tasks.image_generation.parameters import Labels
from service.tasks.parameters import Choice, Flag, Parameter, Whole

ENCODE: dict[str, Parameter] = {
    "invert": Choice(
        words=("auto", "true", "false"), default="auto", about="Is the object dark on a light ground? As in `classify`."
    ),
    "label": Labels(
        most=1, about="Of all pictures of the request; needed where the encoder takes one, and only there."
    ),
}
RECONSTRUCT: dict[str, Parameter] = ENCODE | {
    "seed": Whole(
        low=0,
        high=NUM_SEEDS - 1,
        default=0,
        about="Of the noise that errors are averaged over; it is the same for every picture.",
    ),
    "echo_input": Flag(default=False, about="Tell in the JSON answer the pixels that the network was fed, as `input`."),
    "format": Choice(
        words=("json", "png"),
        about="`png`: a line for each picture, with its reconstruction and its errors. "
        "If absent, what `Accept` names, or else JSON.",
    ),
}
