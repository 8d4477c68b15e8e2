"""OpenAI's API: completions, chats, embeddings and images."""

from __future__ import annotations

from service.http.routing import Route
from service.protocols.openai.chat import Chats
from service.protocols.openai.completions import Completions
from service.protocols.openai.embeddings import Embeddings
from service.protocols.openai.images import ImageEdits, ImageGenerations
from service.tasks.task import Dependencies


def openai_routes(dependencies: Dependencies) -> list[Route]:
    """The routes for OpenAI's clients."""
    kinds = (Completions, Chats, Embeddings, ImageGenerations, ImageEdits)
    return [kind(dependencies).route() for kind in kinds]
