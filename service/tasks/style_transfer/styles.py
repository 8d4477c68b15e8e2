"""The styles of a stylizer, each with a small picture, read from the repository once for each version and kept."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from fastapi import APIRouter
from pydantic import BaseModel

from models.image_header import ImageError, sniff
from models.stylization import Stylization
from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import ModelNotReady
from service.http.documentation import STYLES_PROBLEMS
from service.http.inference import resolve_for_task


class ListedStyle(BaseModel):
    """One style; `thumbnail` is a picture as a data URL."""

    name: str
    thumbnail: str


class Styles(BaseModel):
    """The styles of a model version, in the order of its weights."""

    model: str
    version: str
    styles: list[ListedStyle]


class Thumbnails:
    """Finds the styles of a model version."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._known: WeakKeyDictionary[ReadyModel, Styles] = WeakKeyDictionary()

    async def of(self, model: ReadyModel) -> Styles:
        """The styles of a version.

        Raises: ModelNotReady where a picture is missing or is none.
        """
        styles = self._known.get(model)
        if styles is None:
            styles = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, model)
            self._known[model] = styles
        return styles

    def _read(self, model: ReadyModel) -> Styles:
        styles = []
        for style in stylization_of(model).styles:
            try:
                content = (model.folder / style.thumbnail).read_bytes()
                media_type = f"image/{sniff(content).lower()}"
            except (OSError, ImageError) as error:
                raise ModelNotReady(
                    f"{style.thumbnail} of {model.name}@{model.version} cannot be read.", retry_after_seconds=1
                ) from error
            url = f"data:{media_type};base64,{b64encode(content).decode('ascii')}"
            styles.append(ListedStyle(name=style.name, thumbnail=url))
        return Styles(model=model.name, version=model.version, styles=styles)


def stylization_of(model: ReadyModel) -> Stylization:
    """How pictures go through the graphs of a stylizer."""
    stylization = model.manifest.stylization
    assert stylization is not None  # the manifest of this task has one
    return stylization


def styles_router(client: EngineClient, thumbnails: Thumbnails) -> APIRouter:
    """The route that lists styles."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("/{model}/styles", responses=STYLES_PROBLEMS)
    async def list_styles(model: str) -> Styles:
        """List the styles of a stylizer with their thumbnails."""
        return await thumbnails.of(resolve_for_task(client, model, "style-transfer"))

    return router
