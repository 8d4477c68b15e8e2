"""OpenAI's API: completions and chats."""

from __future__ import annotations

from service.http.routing import Route
from service.protocols.openai.chat import Chats
from service.protocols.openai.completions import Completions
from service.tasks.task import Dependencies


def openai_routes(dependencies: Dependencies) -> list[Route]:
    """The routes for OpenAI's clients."""
    return [Completions(dependencies).route(), Chats(dependencies).route()]
