"""A key gives what its scopes say, and nothing of other callers."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("keys", "keyed"))
def test_a_key_gives_what_it_says_and_no_more(attack: Attack, keyed: Target) -> None:
    assert_held(attack, keyed)
