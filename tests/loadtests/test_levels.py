"""Latencies in bins, what counts for which number of users, and what workers send."""

import numpy as np
import pytest

from loadtests.scenarios.catalog import CLASSIFY, COMPLETE, STYLIZE
from loadtests.scenarios.levels import Recorder, Samples, Tally


def tally(*milliseconds: float, action: str = CLASSIFY, failures: int = 0) -> Tally:
    made = Tally()
    for value in milliseconds:
        made.add(action, value, ok=True)
    for _ in range(failures):
        made.add(action, 0.0, ok=False)
    return made


@pytest.mark.parametrize("percent", [1, 50, 95, 99, 100])
def test_a_percentile_is_within_a_percent_of_the_exact_one(percent: int) -> None:
    values = np.random.default_rng(1).lognormal(3, 1.5, 5000)
    samples = Samples()
    for value in values:
        samples.add(float(value))

    exact = np.percentile(values, percent, method="inverted_cdf")

    assert samples.percentile(percent) == pytest.approx(float(exact), rel=0.01)


def test_no_samples_have_no_percentile() -> None:
    assert Samples().percentile(99) is None


def test_a_level_counts_only_while_its_number_of_users_has_settled() -> None:
    recorder = Recorder(settle_seconds=1.0)
    recorder.add(0.0, 4, tally(1.0))
    recorder.add(0.5, 4, tally(1.0))
    recorder.add(1.5, 4, tally(1.0))  # its beginning was not settled yet
    recorder.add(2.5, 4, tally(10.0, 10.0))
    recorder.add(3.5, 8, tally(99.0))  # the number changed meanwhile
    recorder.add(4.5, 8, tally(99.0))
    recorder.add(6.5, 8, tally(20.0, 20.0, 20.0, 20.0))

    found = [(level.users, level.seconds, level.tally.num_good, level.rate) for level in recorder.levels]

    assert found == [(4, 1.0, 2, 2.0), (8, 2.0, 4, 2.0)]
    assert recorder.whole.tally.num_good == 11
    assert recorder.whole.seconds == 6.5


def test_a_number_of_users_that_comes_back_continues_its_level() -> None:
    recorder = Recorder(settle_seconds=0.0)
    for second, users in enumerate((1, 1, 5, 5, 1, 1)):
        recorder.add(float(second), users, tally(10.0))

    assert [(level.users, level.seconds) for level in recorder.levels] == [(1, 2.0), (5, 1.0)]


def test_failures_are_no_latencies() -> None:
    made = tally(5.0, 5.0, 5.0, failures=1)

    assert made.num_good == 3
    assert made.failure_ratio == 0.25


def test_a_text_is_judged_by_its_first_token() -> None:
    recorder = Recorder(settle_seconds=0.0)
    made = tally(900.0, action=COMPLETE)
    made.add_text(30.0, 24)
    recorder.add(0.0, 1, Tally())
    recorder.add(2.0, 1, made)

    page = recorder.levels[0].to_json()

    assert page["p50_ms"] == pytest.approx(900, rel=0.01)
    assert page["first_token"]["p99_ms"] == pytest.approx(30, rel=0.01)
    assert page["tokens_per_second"] == 12.0
    assert made.judged[COMPLETE].percentile(99) == pytest.approx(30, rel=0.01)


def test_what_a_worker_sends_is_what_its_master_adds() -> None:
    sent = tally(5.0, 7.0, failures=2)
    sent.merge(tally(70.0, action=STYLIZE))
    sent.add_text(3.0, 5)
    received = tally(6.0)

    received.merge(Tally.from_wire(sent.to_wire()))

    assert received.num_good == 4
    assert received.failures == {CLASSIFY: 2}
    assert received.num_tokens == 5
    assert set(received.judged) == {CLASSIFY, STYLIZE, COMPLETE}


def test_a_moment_tells_of_the_last_ten_seconds() -> None:
    recorder = Recorder()
    for second in range(30):
        made = tally(*([10.0] * (1 if second < 15 else 3)))
        made.add_text(5.0 if second < 15 else 50.0, 2)
        recorder.add(float(second), 1, made)

    assert recorder.moments[14].requests_per_second == pytest.approx(1.0)
    assert recorder.moments[29].requests_per_second == pytest.approx(3.0)
    assert recorder.moments[29].first_token_p50_ms == pytest.approx(50.0, rel=0.01)
    assert recorder.moments[29].tokens_per_second == pytest.approx(2.0)
