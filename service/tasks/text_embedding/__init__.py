"""Text embedding: vectors of texts, which are close where their meanings are."""

from __future__ import annotations

from service.tasks.task import Task
from service.tasks.text_embedding.routes import EmbedTexts

TASK = Task(name="text-embedding", graphs=("model",), routes=(EmbedTexts,))
