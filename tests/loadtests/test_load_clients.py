"""Reading the output of wrk."""

import pytest

from loadtests import load_clients

OUTPUT = """Running 2s test @ http://127.0.0.1:1/classify
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms    1.02ms  22.97ms   91.61%
    Req/Sec    11.59k     1.05k   13.14k    70.00%
  Latency Distribution
     50%  854.00us
     75%    1.77ms
     90%    2.32ms
     99%    1.31s
  23070 requests in 2.00s, 3.01MB read
Requests/sec:  11513.56
Transfer/sec:      1.50MB
   99.9% 1700.25us
"""


def test_rates_and_percentiles_are_read_in_milliseconds() -> None:
    assert load_clients.parse_wrk(OUTPUT) == load_clients.Latencies(23070, 0, 11513.56, 0.854, 1310.0, 1.70025)


def test_bad_statuses_and_socket_errors_lower_the_good_rate() -> None:
    errors = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 11525\n"
    seen = load_clients.parse_wrk(OUTPUT + errors)
    assert seen.num_errors == 11535
    assert seen.good_requests_per_second == pytest.approx(11513.56 / 2)


def test_output_without_percentiles_is_refused() -> None:
    with pytest.raises(load_clients.LoadError, match="must hold a total"):
        load_clients.parse_wrk(OUTPUT.replace(" 99%", " 98%"))


def test_a_missing_wrk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(load_clients.LoadError, match="apt install wrk"):
        load_clients.require_wrk()
