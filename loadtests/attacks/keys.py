"""Who may do what: keys with scopes, wrong keys, quotas, and what one caller can learn of another."""

from __future__ import annotations

import itertools
import json
import time

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status
from loadtests.attacks.loads import load

_CLASSIFY, _COMPLETE = "/v1/models/mnist/classify", "/v1/completions"
_GUESSER = "127.0.0.9"
_PROMPT = "The number of my account is written on the first page of the small green book: "


def _classify(target: Target, key: str, **how: object) -> wire.Answer:
    headers = {"Content-Type": "application/octet-stream", **target.authorization(key)}
    return target.ask("POST", _CLASSIFY, bytes(28 * 28), headers=headers, **how)


def _complete(target: Target, key: str, prompt: str, **more: object) -> wire.Answer:
    body = json.dumps({"model": "novelist", "prompt": prompt, "max_tokens": 1, "seed": 1, **more}).encode()
    return target.ask("POST", _COMPLETE, body, headers=wire.JSON | target.authorization(key))


@attack("loads with a key for inference", stage="keyed")
def loads(target: Target) -> str:
    """Repository control needs `admin`."""
    return require_status(load(target, "mnist", {}, key="alice"), 403)


@attack("loads with a key for inference over gRPC", stage="keyed")
def grpc_loads(target: Target) -> str:
    """Over gRPC as well."""
    message = wire.member(2, b"mnist")
    status, _ = wire.call(target.grpc_port, "RepositoryModelUnload", message, key=target.keys["alice"])
    if status == "OK":
        load(target, "mnist", key="chief")
    require(status == "PERMISSION_DENIED", f"answered {status}")
    return status


@attack("inference with a key for metrics", stage="keyed")
def metrics_key(target: Target) -> str:
    """A scope gives what it says."""
    return require_status(_classify(target, "metrics"), 403)


@attack("every route without a key", stage="keyed")
def keyless(target: Target) -> str:
    """Nothing but probes and files is open, in whatever way a path is written."""
    paths: dict[str, dict[str, object]] = target.ask(
        "GET", "/openapi.json", headers=target.authorization("chief")
    ).json()["paths"]
    asked = [(method.upper(), path.replace("{model}", "mnist")) for path in paths for method in paths[path]]
    asked += [
        ("GET", "//v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/../v1/models"),
        ("GET", "/livez/../v1/models"),
    ]
    is_open = {"/livez", "/readyz", "/metrics"}
    closed = [(method, path) for method, path in asked if path not in is_open and "health" not in path]
    found = {(method, path): target.ask(method, path).status for method, path in closed}
    leaks = {each: status for each, status in found.items() if status not in (401, 403, 404, 405, 307, 429)}
    # A path that only says what this is, and the index of the protocol, hold nothing of a model.
    require(not leaks, f"answered {leaks}")
    return f"{len(closed)} refused"


@attack("a hundred wrong keys", stage="keyed", max_cpu_seconds=8)
def wrong_keys(target: Target) -> str:
    """After twenty in a minute an address is refused, whatever the key; others are served."""
    statuses = []
    for index in range(100):
        headers = {"Authorization": f"Bearer hp_wrong_{index}"}
        statuses.append(target.ask("GET", "/v1/models", headers=headers, source=_GUESSER).status)
    require(429 in statuses, f"100 wrong keys were answered {sorted(set(statuses))}")
    require(statuses.index(429) <= 25, f"the first 429 came after {statuses.index(429)}")
    require_status(_classify(target, "alice"), 200)
    return f"429 after {statuses.index(429)}"


@attack("guesses of another caller's prompt", stage="keyed", max_cpu_seconds=15)
def prompts(target: Target) -> str:
    """The cache of one key says nothing to another: neither in figures nor by what is reused."""
    secret = _PROMPT + "4711. Whoever knows it may have all that is mine."
    for _ in range(2):
        require_status(_complete(target, "alice", secret), 200)
    own = _complete(target, "alice", secret).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    other = _complete(target, "bob", secret)
    require_status(other, 200)
    cached = other.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    require(cached == 0, f"another caller's prompt had {cached} cached tokens")
    require(own > 0, "a caller's own prompt is not reused either: nothing is proved")
    return f"0 of {own} tokens"


@attack("a caller with forty connections beside one with one", stage="keyed", max_cpu_seconds=30, is_slow=True)
def flood(target: Target) -> str:
    """Rows are queued fairly across callers: a flood of one does not starve another."""
    is_over, seconds = False, []

    def flooding() -> wire.Answer:
        while not is_over:
            answer = _classify(target, "bob", timeout_seconds=20)
        return answer

    with wire.beside(lambda: wire.at_once([flooding] * 40)):
        time.sleep(1)
        try:
            for _ in range(20):
                started = time.monotonic()
                require_status(_classify(target, "alice", timeout_seconds=20), 200)
                seconds.append(time.monotonic() - started)
        finally:
            is_over = True
    require(sorted(seconds)[10] < 1.0, f"the median of the other caller is {1000 * sorted(seconds)[10]:.0f} ms")
    return f"median {1000 * sorted(seconds)[10]:.0f} ms"


@attack("six callers of the highest priority beside one of none", stage="keyed", max_cpu_seconds=40, is_slow=True)
def priorities(target: Target) -> str:
    """A priority counts within what the key allows: it starves nobody."""
    pixels = [0] * (28 * 28)
    tensor = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": pixels}
    body = json.dumps({"inputs": [tensor], "parameters": {"priority": 1}}).encode()
    is_over, statuses = False, []

    def greedy() -> wire.Answer:
        headers = wire.JSON | target.authorization("bob")
        while not is_over:
            answer = target.ask("POST", "/v2/models/mnist/infer", body, headers=headers)
        return answer

    with wire.beside(lambda: wire.at_once([greedy] * 6)):
        time.sleep(1)
        try:
            for _ in range(3):
                headers = {"Content-Type": "application/octet-stream", "X-Request-Timeout": "5"}
                asked = {"headers": headers | target.authorization("alice"), "timeout_seconds": 10}
                statuses.append(target.ask("POST", _CLASSIFY, bytes(28 * 28), **asked).status)
        finally:
            is_over = True
    require(statuses == [200] * 3, f"answered {statuses}")
    return "3 of 3 served"


@attack("refusals and loads leave a line", stage="keyed", max_growth_mib=128)
def audited(target: Target) -> str:
    """Each refusal of a key and each load is in the audit log: who, from where, what, how it ended."""
    target.ask("GET", "/v1/models", headers={"Authorization": "Bearer hp_wrong_key"}, source="127.0.0.8")
    require_status(load(target, "mnist", key="chief"), 200)
    time.sleep(0.5)  # lines take a moment from process to process
    lines = [line for line in target.read_log().splitlines() if "audit" in line]
    # Refusals have so many lines in ten seconds, and other attacks made some.
    is_refused = any("refused" in line and "127.0.0." in line for line in lines)
    require(is_refused, "no line of the audit log has the address of a wrong key")
    is_told = any("chief" in line and "mnist" in line for line in lines)
    require(is_told, "no line of the audit log has the load and its caller")
    secrets = itertools.chain(target.keys.values(), ["hp_wrong_key"])
    require(not any(secret in target.read_log() for secret in secrets), "a key is in the log")
    return f"{len(lines)} lines"
