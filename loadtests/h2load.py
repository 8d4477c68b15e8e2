"""Runs `h2load`, the compiled HTTP/2 client of nghttp2, as a process of its own: unary gRPC calls, one a connection.

It sees HTTP statuses only, and a gRPC call that fails has the HTTP status 200: whoever drives it must count the
server's own statuses. It prints no percentiles, so they are taken from its log of every request.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loadtests.wrk import Latencies, LoadError

_GRACE_SECONDS = 20.0
_TOTAL = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, \d+ failed, \d+ errored")
_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")


def require_h2load() -> str:
    """The path of `h2load`.

    Raises: LoadError saying how to install it.
    """
    path = shutil.which("h2load")
    if path is None:
        raise LoadError("h2load is not installed; on Debian and Ubuntu: apt install nghttp2-client.")
    return path


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
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=whole_seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"h2load did not end {_GRACE_SECONDS:.0f} s after its load.") from error
        if done.returncode != 0:
            raise LoadError(f"h2load ended with status {done.returncode}: {(done.stderr or done.stdout)[-300:]!r}.")
        return parse_h2load(done.stdout, log.read_text() if log.exists() else "")


def parse_h2load(text: str, log: str) -> Latencies:
    """Read the output of `h2load`, and its log: start in microseconds, HTTP status, microseconds, a line a request.

    Raises: LoadError when a figure is missing.
    """
    total, rate = _TOTAL.search(text), _RATE.search(text)
    micros = [int(line.rpartition("\t")[2]) for line in log.splitlines()]
    if total is None or rate is None or not micros:
        raise LoadError(f"h2load printed {text[:300]!r}; it must hold totals and a rate, and its log a line a request.")
    p50, p99, p999 = (float(value) / 1000 for value in np.percentile(micros, (50, 99, 99.9)))
    num_done, num_good = int(total[1]), int(total[2])
    return Latencies(num_done, num_done - num_good, float(rate[1]), p50, p99, p999)
