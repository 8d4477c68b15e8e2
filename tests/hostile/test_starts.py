"""A service starts and ends well where something around it is wrong, or says what."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("starts"))
def test_a_service_starts_and_ends_well_where_something_is_wrong(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
