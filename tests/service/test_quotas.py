from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.transport.messages import ANYONE as ENGINES_ANYONE
from service.engine.transport.messages import InferTarget
from service.errors import TooManyRequests
from service.quotas import (
    MAX_ACCOUNTS,
    MAX_WRONG_ADDRESSES,
    MAX_WRONG_KEYS,
    NOBODY,
    Accounts,
    Callers,
    Limits,
    Quota,
    Rate,
    WrongKeys,
    forwarded_for,
    network_of,
    parse_network,
    parse_rate,
)
from service.security import ANYONE, Key

TARGET = InferTarget("m", "1", "g", ("y",))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def quota(clock: Clock, concurrency: int = 0, **rates: Rate) -> Quota:
    limits: Any = rates
    return Quota("'alice'", Limits(limits, concurrency), clock)


def key(name: str = "alice", digest: str = "0" * 64, **options: Any) -> Key:
    return Key(name=name, digest=digest, **options)


def num_admitted(quota: Quota, tries: int) -> int:
    admitted = 0
    for _ in range(tries):
        try:
            quota.begin()
        except TooManyRequests:
            continue
        admitted += 1
        quota.end()
    return admitted


# --- rates ---


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100", Rate(100, 100)), ("100:200", Rate(100, 200)), ("0.5", Rate(0.5, 1)), ("0.5:3", Rate(0.5, 3))],
)
def test_a_rate_is_what_a_second_allows_and_what_may_come_at_once(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "100/s", "1:0", "1e3", "nan", "1:"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="100:200"):
        parse_rate(text)


@given(st.integers(1, 50), st.integers(30, 100), st.lists(st.floats(0.001, 0.5), min_size=20, max_size=60))
def test_a_rate_is_kept_whenever_requests_come(per_second: int, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    limited = quota(clock, requests=Rate(per_second, burst))
    admitted = num_admitted(limited, 200)
    for pause in pauses:
        clock.now += pause
        admitted += num_admitted(limited, 200)

    most = burst + per_second * sum(pauses)
    assert most - 1 - 1e-6 <= admitted <= most + 1e-6


def test_a_refusal_says_when_to_come_back_and_is_right() -> None:
    clock = Clock()
    limited = quota(clock, requests=Rate(4, 2))
    assert num_admitted(limited, 5) == 2

    with pytest.raises(TooManyRequests) as refused:
        limited.begin()

    assert refused.value.retry_after_seconds == pytest.approx(0.25)
    clock.now += 0.26
    assert num_admitted(limited, 5) == 1


def test_rows_may_be_owed_and_are_paid_before_more_work() -> None:
    clock = Clock()
    limited = quota(clock, rows=Rate(100, 100))
    limited.spend("rows", 350)

    for _ in range(2):
        with pytest.raises(TooManyRequests):
            limited.spend("rows", 1)
        with pytest.raises(TooManyRequests):
            limited.begin()
        limited.begin(is_work=False)
        clock.now += 1.2

    clock.now += 0.2
    limited.spend("rows", 1)


def test_generated_tokens_are_charged_and_never_refused() -> None:
    clock = Clock()
    limited = quota(clock, tokens=Rate(10, 20))
    limited.spend("tokens", 5)
    for _ in range(40):
        limited.charge("tokens", 1)

    with pytest.raises(TooManyRequests):
        limited.spend("tokens", 1)
    clock.now += 2.6
    limited.spend("tokens", 1)


def test_as_many_requests_as_allowed_are_in_progress() -> None:
    limited = quota(Clock(), concurrency=2)
    limited.begin()
    limited.begin()
    with pytest.raises(TooManyRequests):
        limited.begin()

    limited.end()

    limited.begin()


def test_the_header_fields_are_those_of_the_draft() -> None:
    clock = Clock()
    limited = quota(clock, 8, requests=Rate(10, 20), tokens=Rate(0.5, 3))
    limited.begin()
    limited.spend("tokens", 2)

    assert dict(limited.fields()) == {
        "ratelimit-policy": '"requests";q=20;w=2, "tokens";q=3;w=6, "concurrency";q=8;qu="concurrent-requests"',
        "ratelimit": '"requests";r=19;t=1, "tokens";r=1;t=4, "concurrency";r=7',
    }


# --- accounts ---


def test_the_limits_of_a_key_go_before_those_of_all_kind_by_kind() -> None:
    accounts = Accounts(Limits({"requests": Rate(10, 10), "rows": Rate(5, 5)}, 4), clock=Clock())

    account = accounts.of_key(key(requests="99", concurrency=2))

    assert account.quota is not None
    assert account.quota.limits == Limits({"requests": Rate(99, 99), "rows": Rate(5, 5)}, 2)


def test_each_of_several_processes_has_its_share() -> None:
    limits = Limits({"requests": Rate(10, 20)}, 5)

    quota = Accounts(limits, 4, Clock()).of_address("10.0.0.1").quota

    assert quota is not None
    assert quota.limits == Limits({"requests": Rate(2.5, 5)}, 2)


def test_a_file_that_is_read_again_gives_nobody_a_new_allowance() -> None:
    accounts = Accounts(clock=Clock())
    first = accounts.of_key(key(requests="10"))

    again, changed = accounts.of_key(key(requests="10", weight=2.0)), accounts.of_key(key(requests="20"))

    assert again.quota is first.quota
    assert again.caller.weight == 2.0
    assert changed.quota is not first.quota


def test_without_limits_nothing_is_counted() -> None:
    assert Accounts().of_address("10.0.0.1").quota is None
    assert Accounts().of_key(key()).quota is None


def test_keys_share_nothing_and_addresses_share_what_is_cached() -> None:
    callers = Callers()
    alice, bob = (callers.account(key(name, name * 8), "10.0.0.1").caller for name in ("alice", "bob"))
    here, there = (callers.account(ANYONE, address).caller for address in ("10.0.0.1", "10.0.0.2"))

    assert (alice.domain, bob.domain) == ("alice", "bob")
    assert here.name != there.name
    assert here.domain == there.domain == ENGINES_ANYONE.domain


def test_the_memory_for_accounts_is_bounded() -> None:
    accounts = Accounts(Limits({"requests": Rate(1, 1)}))
    for number in range(MAX_ACCOUNTS + 100):
        accounts.of_address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    assert len(accounts._of_addresses) == MAX_ACCOUNTS


@pytest.mark.parametrize(
    ("asked", "best", "given"), [(0, 2, 0), (1, 2, 2), (1, 1, 1), (3, 2, 3), (2, 2, 2), (2, 3, 3), (0, 1, 0)]
)
def test_a_priority_is_at_most_what_the_key_allows(asked: int, best: int, given: int) -> None:
    account = Accounts().of_key(key(priority=best))

    assert account.spend_rows(TARGET._replace(priority=asked), 1).priority == given
    assert NOBODY.spend_rows(TARGET._replace(priority=1), 1).priority == 1


@pytest.mark.parametrize(("asked", "best", "given"), [(1, 1, 1), (1, 2, 2), (3, 2, 3)])
def test_the_priority_of_a_request_holds_for_all_that_says_no_other(asked: int, best: int, given: int) -> None:
    account = Accounts().of_key(key(priority=best)).asking(asked)

    assert account.priority == given
    assert account.spend_rows(TARGET, 1).priority == given
    assert account.spend_rows(TARGET._replace(priority=4), 1).priority == 4


# --- wrong keys ---


def test_so_many_wrong_keys_in_a_minute_are_too_many_however_they_are_spread() -> None:
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(MAX_WRONG_KEYS):
        wrong.count("10.0.0.1")
        clock.now += 2.5

    with pytest.raises(TooManyRequests) as refused:
        wrong.count("10.0.0.1")
    wrong.count("10.0.0.2")

    assert refused.value.retry_after_seconds == pytest.approx(10)
    clock.now += 10
    wrong.count("10.0.0.1")


def test_the_addresses_of_one_caller_count_as_one() -> None:
    wrong = WrongKeys(Clock())
    for number in range(MAX_WRONG_KEYS):
        wrong.count(f"2001:db8::{number:x}")

    with pytest.raises(TooManyRequests):
        wrong.count("2001:db8::ffff")


def test_the_memory_for_wrong_keys_is_bounded() -> None:
    wrong = WrongKeys(Clock())
    for number in range(MAX_WRONG_ADDRESSES + 100):
        wrong.count(f"10.0.{number >> 8}.{number & 255}")

    assert len(wrong._times) == MAX_WRONG_ADDRESSES


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_caller_has_a_network(address: str, network: str) -> None:
    assert network_of(address) == network


TRUSTED = (parse_network("10.0.0.0/8"), parse_network("::1"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("::1", ["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.7", "10.0.0.2"], "203.0.113.7"),  # the first is the caller's own invention
        ("203.0.113.7", ["1.2.3.4"], "203.0.113.7"),  # who is no proxy is not believed
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.9"], "10.0.0.9"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_the_address_is_the_last_that_no_trusted_proxy_has(peer: str, forwarded: list[str], address: str) -> None:
    assert forwarded_for(peer, forwarded, TRUSTED) == address


def test_without_trusted_proxies_the_header_is_not_read() -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.7")]

    assert Callers().address("10.0.0.1", headers) == "10.0.0.1"
    assert Callers(proxies=TRUSTED).address("10.0.0.1", headers) == "203.0.113.7"
