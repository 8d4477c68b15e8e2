"""Which version of each model answers requests that name none: by a file beside the versions, or the newest one.

It reads the versions of a live repository, and loads none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from models.strict import StrictError
from models.versions import read_default
from service.engine.repository.load_journal import Key
from service.engine.repository.repository import FoundModel, identity_of
from service.engine.repository.version import Version

log = logging.getLogger(__name__)


class DefaultVersions:
    """The default versions of models; `splits` are shadows and canaries, which become the default only by the file."""

    def __init__(self, versions: Mapping[Key, Version], splits: set[Key]) -> None:
        self._versions = versions
        self.splits = splits
        # Without an entry, the newest version that is ready and neither shadow nor canary.
        self._chosen: dict[str, str] = {}
        self._faults: dict[str, str] = {}

    def chosen(self, name: str) -> str:
        """The version that was made the default of a model, empty where it is the newest."""
        return self._chosen.get(name, "")

    def fault_of(self, name: str) -> str:
        """Why a model's default is not the one that its file names; empty where it is."""
        return self._faults.get(name, "")

    def forget(self, name: str) -> None:
        """Forget a model that is gone."""
        self._chosen.pop(name, None)
        self._faults.pop(name, None)

    def of(self, name: str) -> Version | None:
        """The version that answers requests for a model; None where none is ready."""
        ready = {key[1]: each for key, each in self._versions.items() if key[0] == name and each.status.is_usable}
        if (chosen := ready.get(self._chosen.get(name, ""))) is not None:
            return chosen
        newest = max(ready, key=lambda version: ((name, version) not in self.splits, int(version)), default="")
        return ready.get(newest)

    def beside_policy(self, model: FoundModel, default: str) -> list[Path]:
        """The versions that are served whatever the policy says: the default, then shadows and canaries."""
        keys = {(model.name, default), *self.splits}
        folders = (folder for folder in model.versions if identity_of(folder) in keys)
        return sorted(folders, key=lambda folder: identity_of(folder)[1] != default)

    def choose(self, name: str, wanted: str, fault: str) -> None:
        """Make the wanted version the default if it is ready; otherwise the old one stays, and the reason is kept."""
        old = self.of(name)
        if wanted and self._versions[name, wanted].status.is_usable:
            self._chosen[name] = wanted
        elif wanted:
            fault = f"version {wanted} is to be the default: {self._versions[name, wanted].status.reason}"
        elif not fault:
            self._chosen.pop(name, None)
        if fault and old is not None:
            self._chosen[name] = old.status.version
        if fault and fault != self._faults.get(name):
            log.error("a model keeps its default version", extra={"model": name, "reason": fault})
        self._faults[name] = fault
        new = self.of(name)
        if new is not None and old is not None and new.status.version != old.status.version:
            moved = {"model": name, "version": new.status.version, "before": old.status.version}
            log.info("a model has another default version", extra=moved)


def wanted_default(model: FoundModel) -> tuple[str, str]:
    """The version that a model's file names as its default, empty without one, and what is wrong with the file."""
    try:
        default = read_default(model.folder)
    except (StrictError, OSError) as error:
        return "", str(error)
    if default is None:
        return "", ""
    versions = [identity_of(folder)[1] for folder in model.versions]
    if default.version not in versions:
        return "", f"version {default.version} is to be the default and does not exist; there are {versions}."
    return default.version, ""
