"""Runs compiled HTTP clients as processes of their own and reads what they print: `wrk` and, for gRPC, `h2load`.

It knows nothing of what is being loaded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SCRIPT = Path(__file__).with_name("post.lua")
_GRACE_SECONDS = 20.0
_UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m),")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = re.compile(r"^\s+(50|99|99\.9)%\s+([\d.]+)(us|ms|s|m)\s*$", re.MULTILINE)
_BAD_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_H2LOAD_TOTAL = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, \d+ failed, \d+ errored")
_H2LOAD_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")


class LoadError(RuntimeError):
    """A client is missing, failed, or printed what cannot be read."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """What one run of a client measured; `num_errors` counts bad statuses and socket errors."""

    num_requests: int
    num_errors: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float

    @property
    def good_requests_per_second(self) -> float:
        """The rate of the replies with a good status."""
        return self.requests_per_second * max(0.0, 1 - self.num_errors / max(1, self.num_requests))


def require(program: str, package: str) -> str:
    """The path of a client.

    Raises: LoadError saying how to install it.
    """
    path = shutil.which(program)
    if path is None:
        raise LoadError(f"{program} is not installed; on Debian and Ubuntu: apt install {package}.")
    return path


def run_client(command: Sequence[str], seconds: float) -> str:
    """Run a client whose load lasts so many seconds; return what it printed.

    Raises: LoadError where it does not end soon after, or fails.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{name} did not end {_GRACE_SECONDS:.0f} s after its {seconds:g} s of load.") from error
    if done.returncode != 0:
        raise LoadError(f"{name} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}.")
    return done.stdout


def require_wrk() -> str:
    """The path of `wrk`.

    Raises: LoadError saying how to install it.
    """
    return require("wrk", "wrk")


def run_wrk(
    url: str, body: Path, media_type: str, concurrency: int, seconds: float, headers: Sequence[str] = ()
) -> Latencies:
    """Post `body` over `concurrency` connections; `seconds` is rounded up to whole ones, as wrk takes no others.

    `headers` are further lines, as in "Accept: */*".

    Raises: LoadError.
    """
    whole_seconds = max(1, round(seconds + 0.499))
    options = ["-t1", f"-c{concurrency}", f"-d{whole_seconds}s", "--latency", "--timeout", "10s"]
    command = [require_wrk(), *options, "-s", str(_SCRIPT), url, "--", str(body), media_type, *headers]
    return parse_wrk(run_client(command, whole_seconds))


def parse_wrk(text: str) -> Latencies:
    """Read the output of `wrk --latency`.

    Raises: LoadError when a figure is missing.
    """
    total, rate = _TOTAL.search(text), _RATE.search(text)
    percentiles = {name: float(value) * _UNIT_MS[unit] for name, value, unit in _PERCENTILE.findall(text)}
    if total is None or rate is None or set(percentiles) != {"50", "99", "99.9"}:
        raise LoadError(f"wrk printed {text[:300]!r}; it must hold a total, Requests/sec, 50%, 99% and 99.9%.")
    bad_status, socket_errors = _BAD_STATUS.search(text), _SOCKET_ERRORS.search(text)
    num_errors = int(bad_status[1]) if bad_status else 0
    num_errors += sum(map(int, socket_errors.groups())) if socket_errors else 0
    p50, p99, p999 = (percentiles[name] for name in ("50", "99", "99.9"))
    return Latencies(int(total[1]), num_errors, float(rate[1]), p50, p99, p999)


# --- h2load, the HTTP/2 client of nghttp2: unary gRPC calls, one a connection ---
# It sees HTTP statuses only, and a gRPC call that fails has the HTTP status 200: whoever drives it must count the
# server's own statuses. It prints no percentiles, so they are taken from its log of every request.


def require_h2load() -> str:
    """The path of `h2load`.

    Raises: LoadError saying how to install it.
    """
    return require("h2load", "nghttp2-client")


def run_h2load(
    url: str, body: Path, media_type: str, concurrency: int, seconds: float, headers: Sequence[str] = ()
) -> Latencies:
    """Post `body` over as many connections, one request at a time on each; over HTTP/2 without TLS.

    Raises: LoadError.
    """
    whole_seconds = max(1, round(seconds + 0.499))
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        log = Path(folder) / "requests"
        options = ["-t1", f"-c{concurrency}", "-m1", f"-D{whole_seconds}", f"--log-file={log}", f"-d{body}"]
        lines = [f"content-type: {media_type}", *headers]
        command = [require_h2load(), *options, *(f"-H{line}" for line in lines), url]
        printed = run_client(command, whole_seconds)
        return parse_h2load(printed, log.read_text() if log.exists() else "")


def parse_h2load(text: str, log: str) -> Latencies:
    """Read the output of `h2load`, and its log: start in microseconds, HTTP status, microseconds, a line a request.

    Raises: LoadError when a figure is missing.
    """
    total, rate = _H2LOAD_TOTAL.search(text), _H2LOAD_RATE.search(text)
    micros = [int(line.rpartition("\t")[2]) for line in log.splitlines()]
    if total is None or rate is None or not micros:
        raise LoadError(f"h2load printed {text[:300]!r}; it must hold totals and a rate, and its log a line a request.")
    p50, p99, p999 = (float(value) / 1000 for value in np.percentile(micros, (50, 99, 99.9)))
    num_done, num_good = int(total[1]), int(total[2])
    return Latencies(num_done, num_done - num_good, float(rate[1]), p50, p99, p999)
