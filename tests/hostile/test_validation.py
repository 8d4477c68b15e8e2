"""What a request asks for is checked against the model before anything is built."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("validation"))
def test_nothing_is_built_before_the_request_is_checked(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
