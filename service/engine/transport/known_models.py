"""The models as an API process knows them: the engine's latest description, and which version a name refers to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.manifest import Manifest
from models.strict import build
from service.engine.transport.messages import Description, ModelStatus
from service.errors import ModelFailed, ModelNotReady, ServiceError, UnknownModel
from service.splits import Split, Turns

# Versions in these states are not meant to be served.
_INACTIVE = ("unavailable", "unloading")


class ReadyModel:
    """A model version that can be used: its status and its manifest, decoded once."""

    def __init__(self, status: ModelStatus) -> None:
        self.status = status
        self.manifest = build(Manifest, status.manifest)
        self.name = status.name
        self.version = status.version

    @property
    def folder(self) -> Path:
        """The folder of its files: that of the version or, without one, that of the model."""
        folder = Path(self.status.repository) / self.name
        return version if (version := folder / self.version).is_dir() else folder


class KnownModels:
    """The versions of all models, and those among them that are ready; a canary gets its share of the requests.

    While the engine is restarted, the versions that the last one had ready are expected back: requests may refer to
    them, and wait.
    """

    def __init__(self, canaries: Iterable[Split] = ()) -> None:
        self._ready: dict[tuple[str, str], ReadyModel] = {}
        self._expected: dict[tuple[str, str], ReadyModel] = {}
        self._default: dict[str, ReadyModel] = {}
        self._canaries = {split.model: (split.reference, Turns(split.share)) for split in canaries}
        self.statuses: tuple[ModelStatus, ...] = ()
        self.is_settled = False
        self.plans: dict[Any, Any] = {}
        self.precisions: dict[tuple[str, str], str] = {}
        """What serves the versions that have variants."""

    def __contains__(self, key: object) -> bool:
        return key in self._ready

    @property
    def active(self) -> set[str]:
        """The names of all models that are to be served."""
        return {status.name for status in self.statuses if status.is_required and status.state not in _INACTIVE}

    @property
    def ready(self) -> set[str]:
        """The names of the models with a ready version."""
        return {name for name, _ in self._ready}

    def update(self, description: Description) -> list[ReadyModel]:
        """Apply a description of the engine; return the models that must not be used any more."""
        self.statuses = description.models
        self.is_settled = description.settled
        self.plans.clear()
        ready = [status for status in description.models if status.state == "ready" and status.precision.precision]
        self.precisions = {(status.name, status.version): status.precision.precision for status in ready}
        old, self._ready = self._expected | self._ready, {}
        for status in description.models:
            if not status.is_usable:
                continue
            model = old.pop((status.name, status.version), None)
            if model is None or model.status.manifest != status.manifest:
                model = ReadyModel(status)
            model.status = status
            self._ready[status.name, status.version] = model
        failed = {(status.name, status.version) for status in description.models if status.state == "failed"}
        is_back = description.settled or not self._expected
        self._expected = {} if is_back else {key: old[key] for key in old.keys() & self._expected.keys() - failed}
        self._choose_defaults()
        return [model for key, model in old.items() if key not in self._expected]

    def lose(self) -> None:
        """Expect what was ready to come back with the next engine."""
        self._expected, self._ready = self._expected | self._ready, {}
        self.is_settled = False

    def _choose_defaults(self) -> None:
        usable = [*self._expected.values(), *self._ready.values()]
        usable.sort(key=lambda model: (model.status.is_default, int(model.version)))
        self._default = {model.name: model for model in usable}

    def _find(self, name: str, version: str) -> ReadyModel | None:
        return self._ready.get((name, version)) or self._expected.get((name, version))

    def has_canary(self, reference: str) -> bool:
        """Whether another version takes a share of the requests."""
        return reference in self._canaries

    def choose(self, reference: str) -> ReadyModel:
        """Find the model that answers a request: as `resolve`, or a canary whose turn it is.

        Raises: UnknownModel, ModelNotReady.
        """
        model = self.resolve(reference)
        if reference not in self._canaries:
            return model
        canary_reference, turns = self._canaries[reference]
        name, _, version = canary_reference.partition("@")
        canary = self._find(name, version)
        # A version that does something else would refuse what the caller may ask of the model.
        is_able = canary is not None and canary is not model and canary.manifest.task == model.manifest.task
        return canary if canary is not None and is_able and turns.take() else model

    def resolve(self, reference: str) -> ReadyModel:
        """Find the model `name` (its default version) or `name@version`.

        Raises: UnknownModel, ModelNotReady, ModelFailed.
        """
        name, at, version = reference.partition("@")
        model = self._find(name, version) if at else self._default.get(name)
        if model is not None:
            return model
        versions = {status.version: status for status in self.statuses if status.name == name}
        if not versions:
            if not self.is_settled:
                raise ModelNotReady("The engine is starting; its models are not known yet.", retry_after_seconds=1)
            known = ", ".join(sorted({status.name for status in self.statuses if status.version})) or "none"
            raise UnknownModel(f"There is no model {name!r}; there are: {known}.")
        if at and version not in versions:
            known = ", ".join(sorted(filter(None, versions))) or "none"
            raise UnknownModel(f"{name!r} has no version {version!r}; it has: {known}.")
        raise _not_ready(versions[version] if at else next(iter(versions.values())))


def _not_ready(status: ModelStatus) -> ServiceError:
    """Why a version cannot be used; only where waiting may help does it invite another try."""
    which = f"{status.name}@{status.version}" if status.version else status.name
    if status.state == "failed":
        return ModelFailed(f"{which} cannot be served: {status.reason}")
    reason = f" ({status.reason})" if status.reason else ""
    return ModelNotReady(f"{which} is {status.state}{reason}", retry_after_seconds=1)
