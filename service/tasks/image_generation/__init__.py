"""Image generation: images from seeds and latents, latent walks and arithmetic, encoding and reconstruction."""

from __future__ import annotations

from service.tasks.image_generation.encoding_routes import EmbedLatent, Encode, Reconstruct
from service.tasks.image_generation.latent_routes import Arithmetic, Interpolate
from service.tasks.image_generation.routes import Decode, GenerateByUrl, GenerateImages
from service.tasks.task import Task

TASK = Task(
    name="image-generation",
    graphs=("decoder",),
    routes=(
        GenerateImages,
        GenerateByUrl,
        Decode,
        Interpolate,
        Arithmetic,
        Encode,
        EmbedLatent,
        Reconstruct,
    ),
    page="draw",
)
