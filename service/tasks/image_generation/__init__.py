"""Image generation: images from seeds and latents, walks between them, and what an encoder finds in an image."""

from __future__ import annotations

from service.tasks.image_generation.encoding_routes import EmbedLatent, Encode, Reconstruct
from service.tasks.image_generation.latent_routes import Arithmetic, Interpolate
from service.tasks.image_generation.routes import Decode, GenerateByAddress, GenerateImages
from service.tasks.task import Task

TASK = Task(
    name="image-generation",
    graphs=("decoder",),
    routes=(
        GenerateImages,
        GenerateByAddress,
        Decode,
        Interpolate,
        Arithmetic,
        Encode,
        EmbedLatent,
        Reconstruct,
    ),
    page="draw",
)
