"""What a caller may use: requests, rows and tokens a second, and requests at once.

A caller is a key or, in a service without keys, an address. Each API process counts for itself, so each has an equal
share of the limits. Rates are token buckets: rows and tokens may be owed, so that one large request is never impossible
and the rate is still kept. It knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal, NamedTuple, Protocol, get_args

from service.engine.transport.messages import ANYONE, Caller, InferTarget
from service.errors import TooManyRequests

RateKind = Literal["requests", "rows", "tokens"]
RATE_KINDS: tuple[RateKind, ...] = get_args(RateKind)
RATE_PATTERN = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(?::([0-9]{1,12}))?"
MAX_ACCOUNTS = 16384
"""Callers that are remembered; the one who has been here longest is forgotten first, and begins anew."""
MAX_WRONG_KEYS = 20
MAX_WRONG_ADDRESSES = 4096
WRONG_KEYS_SECONDS = 60.0
BUSY_RETRY_SECONDS = 1.0

Network = IPv4Network | IPv6Network


class Rate(NamedTuple):
    """So much a second; `burst` may be used at once."""

    per_second: float
    burst: float

    def share(self, num_processes: int) -> Rate:
        """The rate of one of several processes, which allows one request at least."""
        return Rate(self.per_second / num_processes, max(1.0, self.burst / num_processes))


def parse_rate(text: str) -> Rate:
    """Read `100`, or `100:200` with a burst of 200; without one it is what a second allows.

    Raises: ValueError.
    """
    match = re.fullmatch(RATE_PATTERN, text)
    if match is None or not float(match[1]) or match[2] == "0":
        raise ValueError(
            f"{text!r} is no rate; it must be what a second allows, above 0, as 100, or 100:200 with a burst."
        )
    per_second = float(match[1])
    return Rate(per_second, float(match[2]) if match[2] else max(per_second, 1.0))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may use; what is not named is not limited. `concurrency` 0: any number of requests at once."""

    rates: Mapping[RateKind, Rate]
    concurrency: int = 0

    def __bool__(self) -> bool:
        return bool(self.rates or self.concurrency)

    def overridden(self, own: Limits) -> Limits:
        """These limits with those of a key in place of the same kind."""
        return Limits({**self.rates, **own.rates}, own.concurrency or self.concurrency)

    def share(self, num_processes: int) -> Limits:
        """The limits of one of several processes."""
        rates = {kind: rate.share(num_processes) for kind, rate in self.rates.items()}
        return Limits(rates, math.ceil(self.concurrency / num_processes))


NO_LIMITS = Limits({})


class Bucket:
    """What is left of one rate; below 0, it is owed."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._left = rate.burst
        self._at = now

    def left(self, now: float) -> float:
        """What may be used now."""
        self._left = min(self.rate.burst, self._left + (now - self._at) * self.rate.per_second)
        self._at = now
        return self._left

    def take(self, amount: float) -> None:
        """Use some, whether it is left or not."""
        self._left -= amount

    def seconds_until(self, amount: float) -> float:
        """When so much will be left, after `left` was asked."""
        return max(0.0, (amount - self._left) / self.rate.per_second)


class Quota:
    """What is left of a caller's limits."""

    def __init__(self, name: str, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.num_active = 0
        self._name = name
        self._clock = clock
        now = clock()
        self._buckets = {kind: Bucket(rate, now) for kind, rate in limits.rates.items()}

    def begin(self, *, is_work: bool = True) -> None:
        """Count a request; `end` must follow. One that is work is refused also while rows or tokens are owed.

        Raises: TooManyRequests.
        """
        most = self.limits.concurrency
        if most and self.num_active >= most:
            message = f"{self._name} has {self.num_active} requests in progress; {most} at once are allowed."
            raise TooManyRequests(message, retry_after_seconds=BUSY_RETRY_SECONDS)
        self._require("requests", 1.0)
        if is_work:  # before its body is read and its images are decoded
            self._require("rows", 0.0)
            self._require("tokens", 0.0)
        if (bucket := self._buckets.get("requests")) is not None:
            bucket.take(1)
        self.num_active += 1

    def end(self) -> None:
        """A request has ended."""
        self.num_active -= 1

    def spend(self, kind: RateKind, amount: float) -> None:
        """Use rows or tokens, more than are left if need be.

        Raises: TooManyRequests where none are left.
        """
        self._require(kind, 0.0)
        self.charge(kind, amount)

    def charge(self, kind: RateKind, amount: float) -> None:
        """Count what was used already."""
        if (bucket := self._buckets.get(kind)) is not None:
            bucket.take(amount)

    def _require(self, kind: RateKind, amount: float) -> None:
        bucket = self._buckets.get(kind)
        if bucket is None or bucket.left(self._clock()) >= max(amount, 1e-9):
            return
        rate = bucket.rate
        message = f"{self._name} has used up the limit of {rate.per_second:g} {kind} a second ({rate.burst:g} at once)."
        raise TooManyRequests(message, retry_after_seconds=bucket.seconds_until(max(amount, 1.0)))

    def fields(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The header fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
        policies, states, now = [], [], self._clock()
        for kind, bucket in self._buckets.items():
            burst, per_second = bucket.rate.burst, bucket.rate.per_second
            left = bucket.left(now)
            policies.append(f'"{kind}";q={round(burst)};w={math.ceil(burst / per_second)}')
            states.append(f'"{kind}";r={max(0, int(left))};t={math.ceil(bucket.seconds_until(burst))}')
        if most := self.limits.concurrency:
            policies.append(f'"concurrency";q={most};qu="concurrent-requests"')
            states.append(f'"concurrency";r={max(0, most - self.num_active)}')
        return ("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(states))


@dataclass(frozen=True, slots=True)
class Account:
    """One caller: who the engine takes turns by, the best priority he may ask for, and what is left of his limits.

    `priority` is that of his request where nothing else says one; 0 is none.
    """

    caller: Caller = ANYONE
    best_priority: int = 1
    quota: Quota | None = None
    priority: int = 0

    def spend_rows(self, target: InferTarget, num_rows: int) -> InferTarget:
        """Use rows; return the target with a priority that the caller may have.

        Raises: TooManyRequests.
        """
        if self.quota is not None:
            self.quota.spend("rows", num_rows)
        if (asked := target.priority or self.priority) and (asked < self.best_priority or not target.priority):
            return target._replace(priority=max(asked, self.best_priority))
        return target

    def asking(self, priority: int) -> Account:
        """The account for a request that asks for a priority: it gets that or the best that the caller may have."""
        return replace(self, priority=max(priority, self.best_priority))

    def spend_tokens(self, num_tokens: int) -> None:
        """Use the tokens of a prompt.

        Raises: TooManyRequests.
        """
        if self.quota is not None:
            self.quota.spend("tokens", num_tokens)

    def charge_token(self) -> None:
        """Count a token that was generated."""
        if self.quota is not None:
            self.quota.charge("tokens", 1)


NOBODY = Account()
"""The account of what no caller asked for."""


class Holder(Protocol):
    """A key, as far as limits depend on it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def digest(self) -> str:
        """What tells it from others of the same name."""

    @property
    def weight(self) -> float:
        """Its share where callers take turns."""

    @property
    def priority(self) -> int:
        """The best priority that it may ask for."""

    @property
    def limits(self) -> Limits:
        """Its own limits."""


class Accounts:
    """The accounts of the callers of one process."""

    def __init__(
        self, defaults: Limits = NO_LIMITS, num_processes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._defaults = defaults
        self._num_processes = num_processes
        self._clock = clock
        self._of_addresses: dict[str, Account] = {}
        self._of_keys: dict[str, tuple[Holder, Account]] = {}

    def of_address(self, address: str) -> Account:
        """The account of a caller without a key; they all trust each other with what is cached."""
        name = network_of(address)
        account = self._of_addresses.get(name)
        if account is None:
            _make_room(self._of_addresses)
            account = self._of_addresses[name] = Account(Caller(name), 1, self._quota(name, self._defaults))
        return account

    def of_key(self, key: Holder) -> Account:
        """The account of a key, with what is left of its limits unless these have changed."""
        holder, account = self._of_keys.get(key.digest, (None, NOBODY))
        if holder is key:
            return account
        limits = self._defaults.overridden(key.limits)
        quota = account.quota
        if quota is None or quota.limits != limits.share(self._num_processes):
            quota = self._quota(key.name, limits)
        _make_room(self._of_keys)
        account = Account(Caller(key.name, key.weight, key.name), key.priority, quota)
        self._of_keys[key.digest] = key, account
        return account

    def _quota(self, name: str, limits: Limits) -> Quota | None:
        return Quota(repr(name), limits.share(self._num_processes), self._clock) if limits else None


def _make_room(accounts: dict[str, Any]) -> None:
    while len(accounts) >= MAX_ACCOUNTS:
        del accounts[next(iter(accounts))]


class WrongKeys:
    """When wrong keys came from each address, in a bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, address: str) -> None:
        """Count a wrong key.

        Raises: TooManyRequests where there were too many in the last minute.
        """
        now, name = self._clock(), network_of(address)
        times = self._times.pop(name, None) or deque[float](maxlen=MAX_WRONG_KEYS)
        self._times[name] = times
        if len(self._times) > MAX_WRONG_ADDRESSES:
            self._times.popitem(last=False)
        if len(times) == MAX_WRONG_KEYS and now < times[0] + WRONG_KEYS_SECONDS:
            message = f"More than {MAX_WRONG_KEYS} wrong API keys came from {address!r} within a minute."
            raise TooManyRequests(message, retry_after_seconds=times[0] + WRONG_KEYS_SECONDS - now)
        times.append(now)


class Callers:
    """Who the callers of one process are: where they come from, their accounts, and the wrong keys they have sent."""

    def __init__(
        self,
        limits: Limits = NO_LIMITS,
        num_processes: int = 1,
        proxies: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = Accounts(limits, num_processes, clock)
        self._wrong_keys = WrongKeys(clock)
        self._proxies = proxies

    def address(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Where a request comes from that a peer sent with these headers."""
        if not self._proxies:
            return peer
        fields = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
        return forwarded_for(peer, fields, self._proxies)

    def account(self, key: Holder, address: str) -> Account:
        """The account of a key; of an address, where the key is that of anyone."""
        return self._accounts.of_key(key) if key.digest else self._accounts.of_address(address)

    def wrong_key(self, address: str) -> None:
        """Count a wrong key.

        Raises: TooManyRequests where there were too many in the last minute.
        """
        self._wrong_keys.count(address)


@lru_cache(MAX_ACCOUNTS)
def network_of(address: str) -> str:
    """What one caller has: an IPv4 address, or the /64 of an IPv6 address, in which he may take any."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Network((parsed, 64), strict=False))
    return str(parsed)


def parse_network(text: str) -> Network:
    """Read an address or a network, as `10.0.0.0/8`.

    Raises: ValueError.
    """
    return ip_network(text, strict=False)


def forwarded_for(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that a request comes from: the last that is no trusted proxy's, of the peer and `X-Forwarded-For`.

    Each proxy adds the address that it was asked from at the end; whoever is not trusted may have invented the rest.
    """
    path = [each.strip() for field in forwarded for each in field.split(",")]
    address = peer
    while _is_trusted(address, trusted) and path:
        address = path.pop()
    return address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return any(parsed.ipv4_mapped in network for network in trusted)
    return any(parsed in network for network in trusted)
