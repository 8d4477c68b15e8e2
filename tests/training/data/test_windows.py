"""Training windows: every token once an epoch, in an order that the seed and the step alone decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.tokens import Windows, cut

BEGIN = 777
# Each token is its own place, so that a window tells where it was cut.
TOKENS = np.arange(205, dtype=np.int32)


def windows(length: int = 10, batch_size: int = 4, seed: int = 0) -> Windows:
    return Windows(TOKENS, BEGIN, length, batch_size, seed)


def test_a_window_predicts_each_token_from_those_before_it() -> None:
    inputs, targets = cut(TOKENS, np.array([3, 50]), 4, BEGIN)
    assert targets.tolist() == [[3, 4, 5, 6], [50, 51, 52, 53]]
    assert inputs.tolist() == [[BEGIN, 3, 4, 5], [BEGIN, 50, 51, 52]]
    assert inputs.dtype == targets.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_token_of_an_epoch_is_seen_exactly_once(batch_size: int) -> None:
    made = windows(batch_size=batch_size)
    num_epochs = batch_size
    rows = torch.cat([made.batch(step)[1] for step in range(made.num_windows)])
    assert len(rows) == num_epochs * made.num_windows
    for epoch in torch.split(rows, made.num_windows):
        seen = epoch.flatten().tolist()
        assert sorted(seen) == list(range(min(seen), min(seen) + made.num_windows * made.length))
        assert 0 <= min(seen) < made.length


def test_no_more_than_a_window_and_a_rest_are_left_out_of_an_epoch() -> None:
    made = windows()
    assert made.num_windows * made.length > len(TOKENS) - 2 * made.length


def test_epochs_are_shuffled_and_cut_anew() -> None:
    made = windows(batch_size=19)
    first, second = made.batch(0)[1][:, 0], made.batch(1)[1][:, 0]
    assert made.num_windows == 19
    assert first.tolist() != sorted(first.tolist())
    assert first.tolist() != second.tolist()
    offsets = {int(made.batch(step)[1].min()) for step in range(20)}
    assert len(offsets) > 5


def test_a_batch_depends_on_nothing_but_its_step_and_the_seed() -> None:
    made = windows()
    made.batch(0), made.batch(9)
    assert torch.equal(made.batch(5)[1], windows().batch(5)[1])
    assert not torch.equal(made.batch(5)[1], windows(seed=1).batch(5)[1])


def test_a_batch_may_span_two_epochs() -> None:
    made = windows(batch_size=12)
    starts = made.batch(1)[1][:, 0]
    assert starts[:7].sort().values.diff().remainder(10).eq(0).all()
    assert {int(start) % 10 for start in starts[7:]} == {int(made.batch(2)[1][0, 0]) % 10}


def test_a_text_shorter_than_two_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="the text has 19 tokens; at least 20 are needed"):
        Windows(TOKENS[:19], BEGIN, 10, 4, 0)
