"""What the figures, the log and the results say of what happened."""

from __future__ import annotations

import json
import time

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

_REQUESTS = "hotplate_requests_total"
_GENERATE = "/v1/models/novelist/generate"


def _stream(target: Target, *lines: str, reads: bool = True) -> None:
    body = json.dumps({"prompt": "It was", "max_tokens": 480, "n": 8, "stream": True}).encode()
    with target.connect() as connection:
        head = wire.head(_GENERATE, "Content-Type: application/json", f"Content-Length: {len(body)}", *lines)
        connection.send(head + body)
        if reads:
            connection.answer()
        else:
            connection.socket.recv(100)


def _counted(target: Target, before: float, *labels: str) -> float:
    """By how much the count of requests grew, once nothing is in flight."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if (now := target.gauge(_REQUESTS, *labels)) > before:
            return now - before
        time.sleep(0.1)
    return 0.0


def _counts_as_failed(target: Target, *lines: str, reads: bool) -> str:
    path = 'route="/v1/models/{model}/generate"'
    before, good_before = target.gauge(_REQUESTS, path), target.gauge(_REQUESTS, path, '"200"')
    for _ in range(4):
        _stream(target, *lines, reads=reads)
    all_of_them = _counted(target, before + 3, path) + 3
    good = target.gauge(_REQUESTS, path, '"200"') - good_before
    require(all_of_them >= 4, f"{all_of_them:.0f} of 4 streams are counted")
    require(good < 4, f"{good:.0f} of 4 streams that did not end well are counted as 200")
    return f"{good:.0f} of 4 as 200"


@attack("streams that a deadline cuts", max_cpu_seconds=15)
def cut_streams(target: Target) -> str:
    """A stream is counted by how it ended."""
    return _counts_as_failed(target, "X-Request-Timeout: 0.3", reads=True)


@attack("streams that their callers leave", max_cpu_seconds=15)
def left_streams(target: Target) -> str:
    """Nor is one that its caller left a success."""
    return _counts_as_failed(target, reads=False)


@attack("refusals of the protocol are counted")
def protocol_refusals(target: Target) -> str:
    """What never reaches a route is in the metrics all the same."""
    before = target.gauge(_REQUESTS)
    asked = target.gauge(_REQUESTS) - before
    for _ in range(8):
        with target.connect() as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            require_status(connection.answer(), 400)
    grown = target.gauge(_REQUESTS) - before - 2 * asked
    require(grown >= 8, f"{grown:.0f} of 8 refusals are counted")
    return f"{grown:.0f} of 8"


@attack("access lines say who asked", stage="keyed")
def addresses(target: Target) -> str:
    """Each line of the access log has the client's address."""
    headers = target.authorization("alice")
    require_status(target.ask("GET", "/v1/models", headers=headers, source="127.0.0.7"), 200)
    time.sleep(0.3)
    require("127.0.0.7" in target.read_log(), "no line has the address")
    return "said"


@attack("penalties of what was only asked", max_cpu_seconds=10)
def penalties(target: Target) -> str:
    """Penalties count generated tokens: of the first token they take nothing, whatever the prompt holds."""
    prompt = "the the the the the the the the the the"
    asked = {"model": "novelist", "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 5}
    found = []
    for more in ({}, {"presence_penalty": 2.0, "frequency_penalty": 2.0}):
        answer = target.ask("POST", "/v1/completions", json.dumps(asked | more).encode(), headers=wire.JSON)
        require_status(answer, 200)
        found.append(answer.json()["choices"][0]["text"])
    require(found[0] == found[1], f"the first token is {found[1]!r}, and {found[0]!r} without penalties")
    return f"{found[0]!r} either way"
