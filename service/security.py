"""API keys: who may do what. A file holds one line for each key, with the key's digest but no key itself.

A line is `name:SHA-256`, then options apart by blanks: `scopes=infer,metrics models=mnist,novelist
expires=2027-01-31T00:00:00Z disabled`. Without options it is a key for inference with every model.

The file is read again when it changes, as a mounted secret does. This module knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import msgspec

from service.engine.fairness import DEFAULT_PRIORITY
from service.errors import Forbidden, StartupError, Unauthorized, Unavailable, UnknownModel
from service.quotas import RATE_KINDS, Limits, parse_rate

log = logging.getLogger(__name__)

MAX_WEIGHT = 1000

RELOAD_SECONDS = 1.0
"""The interval at which the file is checked for changes."""
SETTLED_SECONDS = 0.5
"""A file that was written in place so short a time ago may be half written."""
_PREFIX = "hp_"
_HOW = "send it as `Authorization: Bearer KEY`"
NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
_LINE = re.compile(rf"(?P<name>{NAME_PATTERN}):(?P<digest>[0-9a-f]{{64}})(?P<options>(?:[ \t]+\S+)*)")
_LISTS = ("scopes", "models")

KeyScope = Literal["infer", "metrics", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
Access = Literal["public", "infer", "metrics", "admin"]
"""What a route needs of a key: one of its scopes, or nothing, not even a key."""


class Named(Protocol):
    """A model, as far as keys know it."""

    @property
    def name(self) -> str:
        """Its name."""


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"is_disabled": "disabled"}):
    """One key: its name, its digest, and what may be done with it. Every further field is an option of its line.

    The scope `admin` includes the others. No `models` means every model. `requests`, `rows` and `tokens` are what it
    may use a second, as 100 or, with a burst, 100:200; `concurrency` bounds its requests in progress. `priority` is the
    best that it may ask for. Where callers take turns, `weight` is its share.
    """

    name: str
    digest: str = ""
    scopes: frozenset[KeyScope] = frozenset({"infer"})
    models: frozenset[str] = frozenset()
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    requests: str = ""
    rows: str = ""
    tokens: str = ""
    concurrency: Annotated[int, msgspec.Meta(ge=0)] = 0
    priority: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_PRIORITY
    weight: Annotated[float, msgspec.Meta(gt=0, le=MAX_WEIGHT)] = 1.0
    is_disabled: bool = False

    def __post_init__(self) -> None:
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """Its own limits.

        Raises: ValueError, and so no such key can be made.
        """
        given = {kind: getattr(self, kind) for kind in RATE_KINDS}
        return Limits({kind: parse_rate(text) for kind, text in given.items() if text}, self.concurrency)

    def require(self, access: Access) -> None:
        """Check that the key has a scope.

        Raises: Forbidden.
        """
        if access in self.scopes or access == "public" or "admin" in self.scopes:
            return
        held = ", ".join(sorted(self.scopes))
        error = Forbidden(f"The key {self.name!r} has the scope {held}; this needs the scope {access}.")
        error.scope, error.caller = access, self.name
        raise error

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return not self.models or model in self.models

    def check_model(self, reference: str, known: Iterable[Named]) -> None:
        """Check that the key is for the model in `name`, `name@version` or `name.graph`; `known` are all models.

        Raises: UnknownModel, as for a model that does not exist.
        """
        name = reference.partition("@")[0]
        if self.may_use(name):
            return
        fitting = (model.name for model in known if name == model.name or name.startswith(f"{model.name}."))
        if not self.may_use(max(fitting, key=len, default=name)):
            raise UnknownModel(f"There is no model {name[:100]!r} for the key {self.name!r}.")

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    def line(self) -> str:
        """The key as the file has it, without the end of the line."""
        default = Key(name=self.name, digest=self.digest)
        options = []
        for field in msgspec.structs.fields(Key)[2:]:
            value = getattr(self, field.name)
            if value != getattr(default, field.name):
                options.append(_option(field.encode_name, value))
        return " ".join([f"{self.name}:{self.digest}", *options])


ANYONE = Key(name="", scopes=frozenset(SCOPES))
"""Every caller of a service that has no keys."""


def _option(name: str, value: Any) -> str:
    if value is True:
        return name
    if isinstance(value, frozenset):
        return f"{name}={','.join(sorted(value))}"
    if isinstance(value, datetime):
        value = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{name}={value}"


def make_key() -> str:
    """Generate a random 256-bit key."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """Hash a key as the file stores it. Keys are random, so a fast hash is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(file: Path) -> dict[str, Key]:
    """Read a file of keys: by digest, in the order of their lines.

    Raises: StartupError.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"The file of API keys {str(file)!r} cannot be read: {error}.") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        key = parse_line(line, f"Line {number} of {str(file)!r}")
        if key is None:
            continue
        if (other := keys.get(key.digest)) is not None:
            raise StartupError(f"Line {number} of {str(file)!r}: {key.name!r} is the same key as {other.name!r}.")
        keys[key.digest] = key
    return keys


def parse_line(line: str, where: str = "The line") -> Key | None:
    """Read one line; None for a comment or a blank one.

    Raises: StartupError, which begins with `where`.
    """
    if not line.strip() or line.startswith("#"):
        return None
    match = _LINE.fullmatch(line.strip())
    if match is None:
        # The line is not quoted: it may be a key, which must not end up in a log.
        raise StartupError(f"{where} is not `name:SHA-256 options`; `hotplate keys new NAME` writes such lines.")
    fields: dict[str, Any] = {"name": match["name"], "digest": match["digest"]}
    for option in match["options"].split():
        name, equals, value = option.partition("=")
        if name in fields:
            raise StartupError(f"{where} has {name!r} twice.")
        fields[name] = value.split(",") if name in _LISTS else value if equals else True
    try:
        return msgspec.convert(fields, Key, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Key)[2:])
        raise StartupError(f"{where} has an option that is not valid: {error}. The options are {known}.") from error


class KeyRing:
    """The keys of a file as it was when it was last valid; `problem` says what is wrong with it since."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Until it can be read for the first time, all callers are told to try again."""
        self._file = file
        self._clock = clock
        self._stamp: tuple[int, ...] = ()
        self.keys: dict[str, Key] | None = None
        self.problem = ""
        self._checked_at = clock()
        self._read(_stamp(file))

    def admit(self, authorization: str | None, api_key: str | None) -> Key:
        """Return the key in one of the two headers.

        Raises: Unauthorized; Unavailable.
        """
        given = api_key
        if authorization is not None:
            scheme, _, given = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized(f"The `Authorization` scheme is not Bearer; {_HOW}.")
        if not given:
            raise Unauthorized(f"This service requires an API key; {_HOW}.")
        self.refresh()
        if self.keys is None:
            raise Unavailable("The API keys cannot be read at the moment.", retry_after_seconds=RELOAD_SECONDS)
        key = self.keys.get(digest_of(given.strip()))
        if key is None:
            raise Unauthorized(f"The API key is not valid; {_HOW}.")
        if key.is_disabled or (key.expires is not None and key.is_expired(datetime.now(UTC))):
            error = Unauthorized(f"The API key {key.name!r} {'is disabled' if key.is_disabled else 'has expired'}.")
            error.caller = key.name
            raise error
        return key

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read, or is half written, changes nothing."""
        if self._clock() < self._checked_at + RELOAD_SECONDS:
            return
        self._checked_at = self._clock()
        stamp = _stamp(self._file)
        if stamp != self._stamp and not self._may_be_half_written(stamp):
            self._read(stamp)

    def _may_be_half_written(self, stamp: tuple[int, ...]) -> bool:
        """Whether the file is still being written in place; one that was put in the place of another is whole."""
        is_same_file = stamp[2:] == self._stamp[2:]
        return bool(stamp) and is_same_file and abs(time.time() - stamp[0] / 1e9) < SETTLED_SECONDS

    def _read(self, stamp: tuple[int, ...]) -> None:
        try:
            keys = read_keys(self._file)
        except StartupError as error:
            if str(error) != self.problem:  # it is tried again each time, but said once
                log.error("API keys not read", extra={"reason": str(error)})
            self.problem = str(error)
            return
        self.keys, self.problem, self._stamp = keys, "", stamp
        log.info("API keys read", extra={"keys": len(keys)})


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stamp(file: Path) -> tuple[int, ...]:
    """A fingerprint of the file that changes with it, or when a symlink is replaced; empty where there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
