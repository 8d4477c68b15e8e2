"""Histograms of a Prometheus page, and a load between two bare bursts."""

import os
import sys
from pathlib import Path

import pytest

from loadtests import servers
from loadtests.bare import Burst, running_bare
from loadtests.bodies import OCTETS
from loadtests.load_clients import Latencies, run_wrk
from loadtests.measure import Gauge, Histogram, count_ok, observe_client, parse_histogram
from loadtests.servers import Server

PAGE = """# HELP hotplate_batch_size Rows in a batch.
# TYPE hotplate_batch_size histogram
hotplate_batch_size_bucket{model="a",version="1",le="1.0"} 3.0
hotplate_batch_size_bucket{model="a",version="1",le="8.0"} 5.0
hotplate_batch_size_bucket{model="a",version="1",le="+Inf"} 6.0
hotplate_batch_size_sum{model="a",version="1"} 30.0
hotplate_batch_size_count{model="a",version="1"} 6.0
hotplate_batch_size_bucket{model="b",version="1",le="1.0"} 9.0
hotplate_batch_size_sum{model="b",version="1"} 9.0
other_bucket{le="1.0"} 1.0
"""

WRK_STAND_IN = """
import sys, urllib.request
url, separator, body, media_type = sys.argv[-4:]
request = urllib.request.Request(url, open(body, "rb").read(), {"Content-Type": media_type})
assert separator == "--" and "-c1" in sys.argv and urllib.request.urlopen(request).status == 200
print("     50%    1.00ms")
print("     99%    2.00ms")
print("   99.9% 3000.00us")
print("  10 requests in 1.00s, 1.00KB read")
print("Requests/sec:     10.00")
"""


def test_buckets_of_one_model_are_taken_apart() -> None:
    histogram = parse_histogram(PAGE, "hotplate_batch_size", {"model": "a"})
    assert histogram == Histogram({"1.0": 3.0, "8.0": 2.0, "+Inf": 1.0}, 30.0)
    assert histogram.mean == 5.0


def test_series_without_a_wanted_label_are_summed() -> None:
    assert parse_histogram(PAGE, "hotplate_batch_size", {}).counts["1.0"] == 12.0


def test_a_difference_holds_only_what_came_since() -> None:
    earlier = Histogram({"1.0": 3.0, "8.0": 1.0}, 10.0)
    later = Histogram({"1.0": 3.0, "8.0": 5.0, "32.0": 1.0}, 60.0)
    assert later.minus(earlier) == Histogram({"8.0": 4.0, "32.0": 1.0}, 50.0)
    assert later.minus(earlier).mean == 10.0


def test_a_histogram_that_is_not_there_is_empty_and_has_no_mean() -> None:
    histogram = parse_histogram(PAGE, "missing", {})
    assert histogram.counts == {}
    assert histogram.mean is None


def test_what_was_answered_well_is_counted_over_http_and_grpc() -> None:
    page = "".join(
        f'hotplate_requests_total{{model="{model}",route="r",status="{status}"}} {count}\n'
        for model, status, count in (("a", "200", 5.0), ("a", "OK", 2.0), ("a", "CANCELLED", 1.0), ("b", "200", 9.0))
    )
    assert count_ok(page, "a") == 7
    assert count_ok(PAGE, "a") == 0


def test_calls_that_fail_behind_a_good_http_status_are_errors(every_task_service: Server) -> None:
    url = every_task_service.url("/v1/models/fashion-mnist/classify")

    def drive() -> Latencies:
        servers.fetch(url, b"no such row", OCTETS)
        return Latencies(1, 0, 10.0, 1.0, 2.0, 3.0)  # what a client says that looks at no status

    found = observe_client(every_task_service, "fashion-mnist", drive)

    assert (found["num_errors"], found["requests_per_second"]) == (1, 0.0)


def test_a_load_is_measured_between_two_bare_bursts(
    tmp_path: Path, small_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for wrk, which is no Python package and may be missing where tests run: it posts once and reports.
    script = tmp_path / "bin" / "wrk"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{WRK_STAND_IN}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    body, port = tmp_path / "body", servers.free_port()
    body.write_bytes(bytes(784))
    command = [sys.executable, "loadtests/peers/empty_endpoint.py", "--port", str(port)]
    with (
        running_bare(small_version / "model.onnx") as bare,
        servers.running("empty", command, port, "/ready", tmp_path) as server,
    ):
        gauge = Gauge("small", bare, Burst(4, seconds=0.05), Burst(4, 1, 2, seconds=0.05))
        found = gauge.measure(server, lambda: run_wrk(server.url("/classify"), body, OCTETS, 1, 1.0))
    assert (found["requests_per_second"], found["num_errors"]) == (10.0, 0)
    assert found["fraction_of_bare"] == 10.0 / found["bare_images_per_second"]
    assert found["added_ms"] == 1.0 - found["bare_p50_ms"]
    assert found["beside_us"] == found["cpu_us"] - 1e6 / found["bare_images_per_second"]
    assert (found["p999_ms"], found["p99_over_p50"]) == (3.0, 2.0)
    assert found["cpu_cores"] >= 0
    assert found["mean_batch_size"] is None
