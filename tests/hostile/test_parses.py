"""Twice the size takes at most three times as long, in every parse."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("parses"))
def test_a_parse_is_linear(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)
