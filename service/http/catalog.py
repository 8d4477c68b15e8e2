"""The model list and the model cards. It reads what the engine says of its models and computes nothing."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel

from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ModelStatus
from service.errors import UnknownModel
from service.http.documentation import MODEL_PROBLEMS


class ListedModel(BaseModel):
    """One version in the list, in OpenAI's shape, with our own members."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["hotplate"] = "hotplate"
    task: str | None
    version: str
    state: str
    reason: str | None = None
    description: str | None = None


class ModelList(BaseModel):
    """Every model version that this service was asked to serve."""

    object: Literal["list"] = "list"
    data: list[ListedModel]


class ModelCard(BaseModel):
    """All that is known of one model version, beside what OpenAI's clients expect: manifest, device, statistics."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["hotplate"] = "hotplate"
    version: str
    state: str
    reason: str | None = None
    device: str
    execution_providers: list[str]
    batching: dict[str, Any]
    golden: dict[str, float | None]
    load_seconds: float
    config: dict[str, Any]
    statistics: dict[str, float]
    manifest: dict[str, Any]


def _listed(status: ModelStatus) -> ListedModel:
    return ListedModel(
        id=status.name,
        task=status.manifest.get("task"),
        version=status.version,
        state=status.state,
        reason=status.reason or None,
        description=status.manifest.get("description"),
    )


def _card(status: ModelStatus) -> ModelCard:
    return ModelCard(
        id=status.name,
        version=status.version,
        state=status.state,
        reason=status.reason or None,
        device=status.device,
        execution_providers=list(status.providers),
        batching={
            "max_batch_size": status.max_batch_size,
            "buckets": list(status.buckets),
            "instances": status.instances,
            "threads": status.threads,
            "bucket_seconds": status.bucket_seconds,
        },
        golden={"max_abs_error": status.golden_error},
        load_seconds=status.load_seconds,
        config=msgspec.to_builtins(status.config),
        statistics=status.statistics,
        manifest=msgspec.to_builtins(status.manifest),
    )


def catalog_router(client: EngineClient) -> APIRouter:
    """The routes of the model list and the cards."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models() -> ModelList:
        """List the model versions, ready or not."""
        return ModelList(data=[_listed(status) for status in client.statuses])

    @router.get("/{model}", responses=MODEL_PROBLEMS)
    async def show_model(model: str) -> ModelCard:
        """Show the card of `name` or `name@version`."""
        name, at, version = model.partition("@")
        if not at and model in {status.name for status in client.statuses}:
            ready = [s for s in client.statuses if s.name == name and s.state == "ready"]
            version = (ready or [s for s in client.statuses if s.name == name])[0].version
        for status in await client.describe():
            if (status.name, status.version) == (name, version):
                return _card(status)
        client.resolve(model)  # says what there is instead
        raise UnknownModel(f"There is no model {model!r}.")

    return router
