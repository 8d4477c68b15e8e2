"""Image classification: the most probable labels of an image, explanations, and embeddings."""

from __future__ import annotations

from service.tasks.classification.routes import Classify, Embed
from service.tasks.task import Task

TASK = Task(
    name="image-classification",
    graphs=("model",),
    routes=(Classify, Embed),
    takes_images=True,
    page="classify",
)
