"""A load has ceilings, and verifies what it says."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("loads", "controlled"))
def test_a_load_has_ceilings(attack: Attack, controlled: Target) -> None:
    assert_held(attack, controlled)
