"""Reading the output of h2load and its log of every request."""

import pytest

from loadtests.load_clients import Latencies, LoadError, parse_h2load, require_h2load

OUTPUT = """starting benchmark...
Warm-up started for thread #0.

finished in 2.00s, 1166.00 req/s, 160.85KB/s
requests: 2332 total, 2396 started, 4 done, 3 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 1 5xx
"""
LOG = "1\t200\t1000\n2\t200\t2000\n3\t200\t3000\n4\t500\t10000\n"


def test_percentiles_are_taken_from_the_log_in_milliseconds() -> None:
    found = parse_h2load(OUTPUT, LOG)

    assert found == Latencies(4, 1, 1166.0, 2.5, pytest.approx(9.79), pytest.approx(9.979))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "log"), [("", LOG), (OUTPUT, "")])
def test_output_without_figures_is_refused(text: str, log: str) -> None:
    with pytest.raises(LoadError, match="must hold totals and a rate"):
        parse_h2load(text, log)


def test_a_missing_h2load_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoadError, match="apt install nghttp2-client"):
        require_h2load()
