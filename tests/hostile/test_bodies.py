"""All callers together keep no more than the budget of a process."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("bodies"))
def test_all_callers_together_stay_within_the_budget(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
