"""Runs `wrk`, the compiled HTTP client, as a process of its own and reads what it prints.

It knows nothing of what is being loaded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("post.lua")
_GRACE_SECONDS = 20.0
_UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m),")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = re.compile(r"^\s+(50|99|99\.9)%\s+([\d.]+)(us|ms|s|m)\s*$", re.MULTILINE)
_BAD_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


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


def require_wrk() -> str:
    """The path of `wrk`.

    Raises: LoadError saying how to install it.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk is not installed; on Debian and Ubuntu: apt install wrk.")
    return path


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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=whole_seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end {_GRACE_SECONDS:.0f} s after its {whole_seconds} s of load.") from error
    if done.returncode != 0:
        raise LoadError(f"wrk ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}.")
    return parse_wrk(done.stdout)


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
