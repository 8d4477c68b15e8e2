"""The ready models of a service by task, with what a caller must know of each.

It asks GET /v1/models and the models' cards, so the load fits any host and any subset of models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from loadtests.servers import fetch

CLASSIFY, STYLIZE, COMPLETE, DRAW = "classify", "stylize", "complete", "draw"
_ACTIONS = {
    "image-classification": CLASSIFY,
    "style-transfer": STYLIZE,
    "text-generation": COMPLETE,
    "image-generation": DRAW,
}
ACTIONS = tuple(_ACTIONS.values())
_TIMEOUT_SECONDS = 30.0


class HostError(RuntimeError):
    """The host cannot be load-tested; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """One ready model; `image_shape` is (height, width, channels) of a classifier's input, None where it is free."""

    name: str
    action: str
    image_shape: tuple[int, int, int] | None = None
    styles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def _fetch(url: str, api_key: str) -> Any:
    try:
        status, body = fetch(url, timeout_seconds=_TIMEOUT_SECONDS, headers=authorization(api_key))
        if status == 200:
            return json.loads(body)
    except (OSError, ValueError) as error:
        raise HostError(f"{url} cannot be read: {error}. A running service is needed.") from error
    raise HostError(f"{url} answered {status}: {body[:300].decode(errors='replace')}.")


def authorization(api_key: str) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _image_shape(manifest: dict[str, Any]) -> tuple[int, int, int] | None:
    for graph in manifest["graphs"].values():
        for tensor in graph["inputs"]:
            if tensor["name"] == "image" and len(tensor["shape"]) == 4 and min(tensor["shape"][1:]) > 0:
                height, width, channels = tensor["shape"][1:]
                return height, width, channels
    return None


def served_of(card: dict[str, Any]) -> Served | None:
    """A model by its card; None for a task that no scenario exercises."""
    manifest = card["manifest"]
    action = _ACTIONS.get(manifest["task"])
    if action is None:
        return None
    stylization = manifest.get("stylization") or {}
    return Served(
        name=card["id"],
        action=action,
        image_shape=_image_shape(manifest),
        styles=tuple(style["name"] for style in stylization.get("styles", ())),
        labels=tuple(manifest.get("labels") or ()),
    )


def read_catalog(host: str, api_key: str = "") -> dict[str, list[Served]]:
    """The ready models of a host, by action.

    Raises: HostError when it does not answer, or serves nothing that a scenario exercises.
    """
    base = f"{host.rstrip('/')}/v1/models"
    try:
        models = _fetch(base, api_key)["data"]
        found: dict[str, list[Served]] = {}
        for model in models:
            if model["state"] == "ready" and model["task"] in _ACTIONS:
                served = served_of(_fetch(f"{base}/{model['id']}", api_key))
                if served is not None:
                    found.setdefault(served.action, []).append(served)
    except (KeyError, TypeError) as error:
        raise HostError(f"{base} is no list of models with their tasks; {host} is another service.") from error
    if not found:
        states = ", ".join(f"{model['id']} ({model['task']}, {model['state']})" for model in models) or "no models"
        raise HostError(f"{host} serves {states}; a ready model with one of the tasks {', '.join(_ACTIONS)} is needed.")
    return found
