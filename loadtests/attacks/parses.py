"""Parses that cost more than their bytes: twice the size must take at most three times as long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

MAX_RATIO = 3.0
_ENOUGH_SECONDS = 0.3
"""Below this a ratio says nothing: the way there and back costs as much."""
_TRIES = 3
_DOUBLINGS = 6
_GENERATE, _TOKENIZE = "/v1/models/novelist/generate", "/v1/models/novelist/tokenize"


def doubles(measure: Callable[[int], float], size: int) -> str:
    """Double the size while that is quick; the outcome is the last ratio that can be told.

    Raises: NotHeld where twice the size takes more than three times as long, also when tried again.
    """
    before, ratio = measure(size), 0.0
    for _ in range(_DOUBLINGS):
        size *= 2
        after = measure(size)
        if after > _ENOUGH_SECONDS and before > _ENOUGH_SECONDS / 4:
            ratio = after / before
            for _ in range(_TRIES if ratio > MAX_RATIO else 0):  # the machine may have done something else
                ratio = min(ratio, measure(size) / max(measure(size // 2), before))
            require(ratio <= MAX_RATIO, f"{size:,} take {ratio:.1f} times as long as half of it: {after:.2f} s")
        if after > 1.0:
            break
        before = after
    return f"x{ratio:.1f} at {size:,}" if ratio else f"{1000 * after:.0f} ms at {size:,}"


def _posting(target: Target, path: str, make: Callable[[int], bytes], *statuses: int) -> Callable[[int], float]:
    def measure(size: int) -> float:
        body = make(size)
        started = time.perf_counter()
        answer = target.ask("POST", path, body, headers=wire.JSON)
        seconds = time.perf_counter() - started
        require_status(answer, *(statuses or (400, 413, 422)))
        return seconds

    return measure


def _names(size: int) -> bytes:
    """An object of many names, the last of which is there twice."""
    names = [f'"n{index}":0' for index in range(size)]
    return ("{" + ",".join([*names, names[-1]]) + "}").encode()


@attack("an object with one name twice")
def doubled_name(target: Target) -> str:
    """Finding the name that is there twice takes one look at each."""
    return doubles(_posting(target, "/v1/models/mnist/classify", _names), 4_000)


@attack("an object with one name twice, in each protocol", max_growth_mib=200)
def doubled_name_elsewhere(target: Target) -> str:
    """The same on the other routes that read JSON."""
    paths = ("/v2/models/mnist/infer", "/v1/completions", _GENERATE, "/v1/models/fashion-vae/decode")
    return ", ".join({doubles(_posting(target, path, _names), 16_000) for path in paths})


@attack("an object of unknown names")
def unknown_names(target: Target) -> str:
    """A message about names that nobody knows does not compare each with each."""

    def make(size: int) -> bytes:
        return json.dumps({f"n{index}": 0 for index in range(size)}).encode()

    return doubles(_posting(target, _GENERATE, make), 8_000)


def _model_ready(target: Target, name: Callable[[int], bytes]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        message = wire.member(1, name(size))
        target.num_bytes_sent += len(message)
        started = time.perf_counter()
        wire.call(target.grpc_port, "ModelReady", message)
        return time.perf_counter() - started

    return measure


@attack("a model's name of dots over gRPC")
def dots(target: Target) -> str:
    """A name is `model.graph`, however many dots somebody writes."""
    return doubles(_model_ready(target, lambda size: b"." * size), 10_000)


@attack("a model's name of at signs over gRPC")
def at_signs(target: Target) -> str:
    """A name is `model@version`."""
    return doubles(_model_ready(target, lambda size: b"a@" * (size // 2)), 10_000)


@attack("a model's name in a body")
def name_in_a_body(target: Target) -> str:
    """A name that is not in the path has no limit of a head."""

    def make(size: int) -> bytes:
        return json.dumps({"model": "a.b@" * (size // 4), "prompt": "a"}).encode()

    return doubles(_posting(target, "/v1/completions", make, 400, 404, 413, 422), 10_000)


@attack("a blend of many styles")
def styles(target: Target) -> str:
    """Each style is looked at once."""

    def make(size: int) -> bytes:
        return b"--b\r\nContent-Disposition: form-data; name=styles\r\n\r\n" + b"a:1," * size + b"\r\n--b--\r\n"

    def measure(size: int) -> float:
        started = time.perf_counter()
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        target.ask("POST", "/v1/models/mnist/classify", make(size), headers=form)
        return time.perf_counter() - started

    return doubles(measure, 10_000)


def _prompt(text: str) -> Callable[[int], bytes]:
    return lambda size: json.dumps({"text": text * (size // len(text))}).encode()


# The library takes some 200 bytes for each token, of which a text may have as many as 65,536 have bytes.
_TOKENS_MIB = 256


@attack("a text of spaces to tokenize", max_growth_mib=_TOKENS_MIB, max_cpu_seconds=15)
def spaces(target: Target) -> str:
    """What splits a text into words does not look back."""
    return doubles(_posting(target, _TOKENIZE, _prompt(" "), 200, 400, 413, 422), 20_000)


@attack("a text of one letter to tokenize", max_growth_mib=_TOKENS_MIB, max_cpu_seconds=15)
def letters(target: Target) -> str:
    """A word of a million letters is merged in time that grows with it."""
    return doubles(_posting(target, _TOKENIZE, _prompt("a"), 200, 400, 413, 422), 20_000)


@attack("a text of combining marks to tokenize", max_growth_mib=_TOKENS_MIB, max_cpu_seconds=15)
def combining_marks(target: Target) -> str:
    """Normalisation sorts marks; it must not sort them one by one."""
    return doubles(_posting(target, _TOKENIZE, _prompt("\u0301\u0327"), 200, 400, 413, 422), 20_000)


@attack("a number of a million digits")
def digits(target: Target) -> str:
    """Digits are counted before a number is made of them."""

    def make(size: int) -> bytes:
        return b'{"prompt":"a","max_tokens":' + b"9" * size + b"}"

    return doubles(_posting(target, _GENERATE, make), 100_000)


@attack("a boundary that nearly comes", max_growth_mib=160)
def boundary(target: Target) -> str:
    """A form's boundary is looked for once."""
    name = "b" * 60

    def measure(size: int) -> float:
        body = (b"\r\n--" + name[:-1].encode()) * (size // 63)
        started = time.perf_counter()
        form = {"Content-Type": f"multipart/form-data; boundary={name}"}
        target.ask("POST", "/v1/models/mnist/classify", body, headers=form)
        return time.perf_counter() - started

    return doubles(measure, 1_000_000)


@attack("a query of many names")
def query(target: Target) -> str:
    """As large as a head may be, and still quick."""
    started = time.perf_counter()
    answer = target.ask("POST", "/v1/models/mnist/classify?" + "a=1&" * 7_500, b"x")
    require(time.perf_counter() - started < 2, "took more than 2 s")
    return require_status(answer, 400, 414, 415, 422, 431)


@attack("a header of many media types")
def media_types(target: Target) -> str:
    """`Accept` with thousands of entries."""
    started = time.perf_counter()
    answer = target.ask("GET", "/v1/models", headers={"Accept": "a/b;q=0.1," * 2_900})
    require(time.perf_counter() - started < 2, "took more than 2 s")
    return require_status(answer, 200, 400, 406, 431)
