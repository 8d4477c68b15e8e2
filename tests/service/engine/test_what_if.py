"""Many models on one simulated device, asked for more than it can answer."""

from __future__ import annotations

import numpy as np

from tests.service.engine.what_if import H200_SECONDS, OBJECTIVE_SECONDS, WhatIf

SECONDS = 0.4


def asked(requests_per_second: float, objective_seconds: float | None = OBJECTIVE_SECONDS) -> WhatIf:
    what_if = WhatIf(H200_SECONDS, objective_seconds=objective_seconds)
    what_if.run(requests_per_second, SECONDS)
    return what_if


def test_below_the_knee_hardly_anybody_is_refused_and_all_others_are_in_time() -> None:
    what_if = asked(4000)

    assert sum(tally.num_refused for tally in what_if.tallies) < 0.05 * sum(t.num_asked for t in what_if.tallies)
    assert all(max(tally.seconds) <= OBJECTIVE_SECONDS for tally in what_if.tallies)


def test_beyond_the_knee_the_device_still_does_what_counts() -> None:
    best, beyond = (asked(rate).in_time_per_second(SECONDS) for rate in (9000, 14000))

    assert beyond >= 0.8 * best
    assert beyond >= 3 * asked(14000, objective_seconds=None).in_time_per_second(SECONDS)


def test_who_is_admitted_is_answered_about_in_time_however_many_ask() -> None:
    seconds = [each for tally in asked(14000).tallies for each in tally.seconds]

    assert float(np.percentile(seconds, 95)) <= 1.25 * OBJECTIVE_SECONDS


def test_every_model_is_answered_and_every_request_is_settled() -> None:
    for tally in asked(14000).tallies:
        assert tally.seconds
        assert tally.num_asked == tally.num_refused + len(tally.seconds)
