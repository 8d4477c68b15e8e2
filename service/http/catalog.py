"""The model list and the model cards, as the engine reports them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from models.manifest import MANIFEST_FILE
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ModelStatus
from service.errors import UnknownModel
from service.http.documentation import MODEL_PROBLEMS
from service.http.request_context import Scope, caller_of
from service.http.routing import Document, Route, json_handler
from service.schema import Answer

TAG = "models"


class ListedModel(Answer):
    """One model version in the list: OpenAI's members and more."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["hotplate"]
    task: str | None
    version: str
    state: str
    is_default: bool
    reason: str | None
    description: str | None
    precision: str | None


class ModelList(Answer):
    """Every model version, loaded or not."""

    object: Literal["list"]
    data: list[ListedModel]


class ModelCard(Answer):
    """Everything about one model version: OpenAI's members, manifest, device and statistics."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["hotplate"]
    version: str
    state: str
    is_default: bool
    reason: str | None
    device: str
    execution_providers: list[str]
    precision: dict[str, Any] | None
    batching: dict[str, Any]
    golden: dict[str, float | None]
    load_seconds: float
    memory_bytes: int
    config: dict[str, Any]
    statistics: dict[str, float]
    shadows: list[dict[str, Any]]
    manifest: dict[str, Any]


def _created(status: ModelStatus) -> int:
    """When the version was made, in seconds since the epoch: the time of its manifest, or of its folder without one."""
    if not status.repository:  # it has no files
        return 0
    folder = Path(status.repository) / status.name / status.version
    for path in (folder / MANIFEST_FILE, folder, folder.parent):
        with suppress(OSError):
            return int(path.stat().st_mtime)
    return 0


def _listed(status: ModelStatus) -> ListedModel:
    return ListedModel(
        id=status.name,
        object="model",
        created=_created(status),
        owned_by="hotplate",
        task=status.manifest.get("task"),
        version=status.version,
        state=status.state,
        is_default=status.is_default,
        reason=status.reason or None,
        description=status.manifest.get("description"),
        precision=status.precision.precision or None,
    )


def _precision(status: ModelStatus) -> dict[str, Any] | None:
    """The precision that serves a version with variants, and why."""
    return dict(msgspec.to_builtins(status.precision)) if status.precision.precision else None


def _card(status: ModelStatus) -> ModelCard:
    return ModelCard(
        id=status.name,
        object="model",
        created=_created(status),
        owned_by="hotplate",
        version=status.version,
        state=status.state,
        is_default=status.is_default,
        reason=status.reason or None,
        device=status.device,
        execution_providers=list(status.providers),
        precision=_precision(status),
        batching={
            "max_batch_size": status.max_batch_size,
            "buckets": list(status.buckets),
            "instances": status.instances,
            "threads": status.threads,
            "bucket_seconds": status.bucket_seconds,
            "graphs": msgspec.to_builtins(status.batching),
        },
        golden={"max_abs_error": status.golden_error},
        load_seconds=status.load_seconds,
        memory_bytes=status.memory_bytes,
        config=msgspec.to_builtins(status.config),
        statistics=status.statistics,
        shadows=msgspec.to_builtins(status.shadows),
        manifest=msgspec.to_builtins(status.manifest),
    )


def catalog_routes(client: EngineClient) -> list[Route]:
    """The routes of the model list and the cards."""

    async def list_models(scope: Scope) -> ModelList:
        caller = caller_of(scope)
        statuses = [status for status in client.statuses if caller.may_use(status.name)]
        return ModelList(object="list", data=list(map(_listed, statuses)))

    async def show_model(scope: Scope) -> ModelCard:
        return _card(await _described(client, scope["path_params"]["model"]))

    listing = Document(
        summary="List the model versions.",
        description="Ready or not; `state` and `reason` say which.",
        request={},
        responses={},
        answers=(ModelList,),
        tag=TAG,
    )
    card = Document(
        summary="Show the card of a model.",
        description="Of `name@version`, or of the default version of `name`.",
        request={},
        responses=MODEL_PROBLEMS,
        answers=(ModelCard,),
        tag=TAG,
    )
    return [
        Route("GET", "/v1/models", json_handler(list_models), listing, access="infer"),
        Route("GET", "/v1/models/{model}", json_handler(show_model), card, access="infer"),
    ]


async def _described(client: EngineClient, model: str) -> ModelStatus:
    """The status of `name` or `name@version`, described anew.

    Raises: UnknownModel, EngineUnavailable.
    """
    name, at, version = model.partition("@")
    if not at and (of_name := [status for status in client.statuses if status.name == name]):
        version = next((status for status in of_name if status.is_default), of_name[0]).version
    for status in await client.describe():
        if (status.name, status.version) == (name, version):
            return status
    client.resolve(model)  # raises an error that names the known models
    raise UnknownModel(f"There is no model {model!r}.")
