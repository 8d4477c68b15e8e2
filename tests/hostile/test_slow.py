"""Callers that are slow hold a place only as long as a limit says."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("slow"))
def test_a_slow_caller_holds_its_place_no_longer_than_a_limit_says(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
