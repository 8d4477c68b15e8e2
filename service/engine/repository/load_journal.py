"""What an engine tells the next one: the load in progress, loads that ended an engine, the models to serve.

The supervisor keeps the notes, so that neither the end of an engine nor a full disk loses them.

A load may end the process: the kernel kills it for its memory, or a library crashes. What it was loading is then not
loaded again until its files change or somebody asks for it, so that the other models are served.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator

import msgspec

from models.config import ModelConfig
from service.engine.repository.repository import Fingerprint

log = logging.getLogger(__name__)

Key = tuple[str, str]
# So many engines in a row may end while they load a version that has been loaded before: it may be chance.
MAX_STRIKES = 5


class _Load(msgspec.Struct, frozen=True):
    """A version as it was when it was loaded; `digest` is that of its files and its configuration."""

    model: str
    version: str
    digest: str
    reason: str = ""


class _Notes(msgspec.Struct):
    """The notes. `served` has the configuration of each model that came with a request; `proven` has been ready.

    `loaded` has the digest of each version that was loaded, `strikes` how many engines in a row ended over it since.
    """

    loading: _Load | None = None
    ended: list[_Load] = []
    served: dict[str, str] | None = None
    proven: set[str] = set()
    loaded: dict[str, str] = {}
    strikes: dict[str, int] = {}


def digest_of(fingerprint: Fingerprint, config: ModelConfig) -> str:
    """A value that changes with a version's files and with its configuration."""
    return hashlib.sha256(repr((fingerprint, config)).encode("utf-8", "backslashreplace")).hexdigest()


class LoadJournal:
    """Reads what the last engine left, and has notes kept for the next one.

    `left` is what `keep` was last given by the engine before. `ending` says how that one ended; `blames_load`: it was
    for a load, as far as can be told.
    """

    def __init__(self, left: str = "", keep: Callable[[str], None] | None = None, ending: str = "") -> None:
        self._keep = keep
        self._notes = _read(left)
        self.blames_load = False
        if (load := self._notes.loading) is not None:
            self._notes.loading = None
            if not self._is_spared(load):
                self._blame(load, ending)
                self.blames_load = True
            self._write()

    def _is_spared(self, load: _Load) -> bool:
        """Whether it is likelier that something else ended the engine: the same version has been loaded before."""
        of, strikes = f"{load.model}@{load.version}", self._notes.strikes
        strikes[of] = strikes.get(of, 0) + 1
        return self._notes.loaded.get(of) == load.digest and strikes[of] < MAX_STRIKES

    def _blame(self, load: _Load, ending: str) -> None:
        reason = (
            f"the engine process ended{ending} while it loaded this version; it is not tried again until it "
            "changes or is loaded on request."
        )
        self._notes.ended.append(msgspec.structs.replace(load, reason=reason))

    # --- loads ---

    @contextlib.contextmanager
    def loading(self, key: Key, digest: str) -> Iterator[None]:
        """Keep a note of a load for as long as it runs, and forget what was known of earlier ones."""
        self._notes.ended = [load for load in self._notes.ended if (load.model, load.version) != key]
        self._notes.loading = _Load(*key, digest)
        self._write()
        try:
            yield
            self._notes.loaded[f"{key[0]}@{key[1]}"] = digest
            self._notes.strikes.pop(f"{key[0]}@{key[1]}", None)
        finally:
            self._notes.loading = None
            self._write()

    def acquit(self) -> None:
        """Note that this engine is coming to its end for something else than the load in progress."""
        self._notes.loading = None
        self._write()

    def ended(self, key: Key, digest: str = "") -> str:
        """Why a version is not to be loaded: loading it, with this digest if one is given, ended an engine."""
        for load in self._notes.ended:
            if (load.model, load.version) == key and digest in ("", load.digest):
                return load.reason
        return ""

    # --- models ---

    @property
    def served(self) -> dict[str, str]:
        """The models that are to be served, with the configuration that came with the request, if one did."""
        return self._notes.served or {}

    @property
    def is_first(self) -> bool:
        """Whether no engine before this one has served."""
        return self._notes.served is None

    @property
    def proven(self) -> set[str]:
        """Of the models that are to be served, those that have been."""
        return self._notes.proven & self.served.keys()

    def serve(self, *names: str, config: str = "", is_proven: bool = False) -> None:
        """Note that models are to be served; `is_proven`: that they are."""
        served = self.served | dict.fromkeys(names, config)
        proven = self._notes.proven | (set(names) if is_proven else set())
        if (served, proven) != (self._notes.served, self._notes.proven):
            self._notes.served, self._notes.proven = served, proven
            self._write()

    def drop(self, name: str) -> None:
        """Note that a model is not to be served any more."""
        if name in self.served:
            self._notes.served = {each: config for each, config in self.served.items() if each != name}
            self._notes.proven = self._notes.proven - {name}
            self._write()

    def _write(self) -> None:
        if self._keep is not None:
            self._keep(msgspec.json.encode(self._notes).decode())


def _read(content: str) -> _Notes:
    try:
        return msgspec.json.decode(content, type=_Notes) if content else _Notes()
    except msgspec.MsgspecError:
        log.exception("what the last engine left cannot be read; every model is loaded")
        return _Notes()
