"""Heads, chunks and trailers are limited in every phase of a request."""

from __future__ import annotations

import pytest

from loadtests.attacks.attack import Attack, Target
from tests.hostile.arena import assert_held, attacks_of


@pytest.mark.parametrize("attack", attacks_of("framing"))
def test_what_surrounds_a_body_is_limited(attack: Attack, anyone: Target) -> None:
    assert_held(attack, anyone)


@pytest.mark.parametrize("attack", attacks_of("framing", "keyed"))
def test_it_is_limited_before_a_key_is_known(attack: Attack, keyed: Target) -> None:
    assert_held(attack, keyed)
