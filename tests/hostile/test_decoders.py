"""Small files that are large pictures cost what a picture may."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("decoders"))
def test_a_picture_costs_what_a_picture_may(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
