"""Figures, log lines and results say what happened."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("truth"))
def test_the_figures_say_what_happened(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)


@pytest.mark.parametrize("attack", attacks_of("truth", "keyed"))
def test_the_log_says_who_asked(attack: Attack, keyed: Target) -> None:
    assert_held(attack, keyed)
