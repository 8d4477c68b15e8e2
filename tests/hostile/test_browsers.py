"""A page of another site changes and learns nothing."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("browsers"))
def test_a_page_of_another_site_learns_nothing(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)


@pytest.mark.parametrize("attack", attacks_of("browsers", "controlled"))
def test_a_page_of_another_site_changes_nothing(attack: Attack, controlled: Target) -> None:
    assert_held(attack, controlled)
