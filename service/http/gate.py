"""Decides which request may reach which route: its host, the page it comes from, and its key.

What follows from a head alone is worked out once (`Gate.need_of`), so that a connection that knows the head has only
the key left to check. The path of a request is looked up in the route table; what is not there needs a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from models.config import PRIORITIES
from service.errors import (
    Forbidden,
    InvalidParameter,
    MisdirectedRequest,
    ServiceError,
    UnknownModel,
    UnsupportedMedia,
)
from service.http.request_context import HeaderPairs, Scope
from service.schema import shown
from service.security import ANYONE, Access, Key, KeyRing, Named, is_loopback
from service.settings import Settings

_READING = ("GET", "HEAD", "OPTIONS")
_SAME_SITE = (b"same-origin", b"none")
"""What `Sec-Fetch-Site` is for a page of the service's own, and for an address that somebody typed."""
_JSON_TYPES = (b"", b"application/json")


class Guarded(Protocol):
    """A route, as far as the gate knows it."""

    @property
    def access(self) -> Access:
        """What it needs of a key."""


PRIORITY_FIELD = b"x-priority"
FindRoute = Callable[[Scope], tuple[Guarded, Mapping[str, str]] | None]


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of its key: a scope (None: any key will do), and a model, which is empty for no model.

    `priority` is the one that it asks for; 0 is none.
    """

    access: Access | None
    model: str = ""
    priority: int = 0


class Gate:
    """Checks the heads and the keys of an API process's requests; `models` are all that are known."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing | None = None,
        find_route: FindRoute = lambda _scope: None,
        models: Callable[[], Iterable[Named]] = tuple,
    ) -> None:
        self.keys = keys
        self._find_route = find_route
        self._models = models
        self._allowed_hosts = {name.lower() for name in settings.allowed_hosts}
        self._checks_hosts = is_loopback(settings.host)

    def need_of(self, scope: Scope) -> Need:
        """Check a head, and return what the request needs of its key.

        Raises: MisdirectedRequest; Forbidden for another site's page; UnsupportedMedia; InvalidParameter.
        """
        headers = dict(reversed(scope["headers"]))
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._checks_hosts and host and not self._is_known_host(host):
            raise MisdirectedRequest(
                f"The Host is {shown(host)}; this service listens on loopback, as localhost. "
                "--allowed-hosts names others that it is known by."
            )
        found = self._find_route(scope)
        access, parameters = (found[0].access, found[1]) if found is not None else (None, {})
        need = Need(access, parameters.get("model", ""), _priority(headers.get(PRIORITY_FIELD)))
        if scope["method"] not in _READING:
            self._check_origin(headers, host)
            if need.access == "admin":
                _check_type(headers)
        return need

    def admit(self, need: Need, headers: HeaderPairs) -> Key:
        """Return the key of a request, if it may do what is needed.

        Raises: Unauthorized, Forbidden; UnknownModel; Unavailable while the keys cannot be read.
        """
        if self.keys is None or need.access == "public":
            return ANYONE
        given = {name: value for name, value in headers if name in (b"authorization", b"x-api-key")}
        authorization, api_key = given.get(b"authorization"), given.get(b"x-api-key")
        key = self.keys.admit(
            None if authorization is None else authorization.decode("latin-1"),
            None if api_key is None else api_key.decode("latin-1"),
        )
        if need.access is not None:
            key.require(need.access)
        if need.model and key.models:
            key.check_model(need.model, self._models())
        return key

    def _check_origin(self, headers: Mapping[bytes, bytes], host: str) -> None:
        """Refuse what another site's page makes a browser send: it may reach what its user reaches."""
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin", b"").decode("latin-1").lower()
        if site in _SAME_SITE or (site is None and not origin):
            return
        try:
            parts = urlsplit(origin)
            from_host, from_name = parts.netloc, parts.hostname or ""
        except ValueError:
            from_host = from_name = ""
        if (from_name in self._allowed_hosts and from_name) or (site is None and from_host and from_host == host):
            return
        raise Forbidden(
            f"The request comes from a page of {shown(origin) if origin else 'another site'}. --allowed-hosts names "
            "the hosts whose pages may send requests."
        )

    def _is_known_host(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return is_loopback(name) or name.endswith(".localhost") or name in self._allowed_hosts


def as_seen_with(key: Key, error: ServiceError) -> ServiceError:
    """The error, without the names of models that the key is not for."""
    if not key.models or not isinstance(error, UnknownModel):
        return error
    return UnknownModel(
        f"There is no such model or version for the key {key.name!r}; it is for {', '.join(sorted(key.models))}."
    )


def _check_type(headers: Mapping[bytes, Any]) -> None:
    """Refuse what a form of another site's page can send, also where a browser does not say where it comes from."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type not in _JSON_TYPES:
        raise UnsupportedMedia(
            f"The media type is {shown(media_type.decode('latin-1'))}; this route takes application/json alone."
        )


def _priority(given: bytes | None) -> int:
    if given is None:
        return 0
    name = given.decode("latin-1")
    for word, number in PRIORITIES.items():
        if name == word:
            return number
    raise InvalidParameter(f"X-Priority is {shown(name)}; it must be interactive, normal or batch.")
