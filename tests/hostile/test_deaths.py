"""What dies, stops or hangs comes back as it was."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("deaths", "controlled"))
def test_what_dies_comes_back_as_it_was(attack: Attack, controlled: Target) -> None:
    assert_held(attack, controlled)


@pytest.mark.parametrize("attack", attacks_of("deaths", "keyed"))
def test_a_passing_disturbance_is_survived(attack: Attack, keyed: Target) -> None:
    assert_held(attack, keyed)
