"""The budget of bytes of a process."""

from __future__ import annotations

import pytest

from service.budget import ByteBudget, Reservation
from service.errors import Busy


def test_what_fits_is_set_aside_until_it_is_released() -> None:
    budget = ByteBudget(100)

    with budget.reserve(60, "the body") as body:
        body.grow(40, "the body")
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    budget = ByteBudget(100)
    held = budget.reserve(60, "the body")

    for ask in (lambda: budget.reserve(41, "the image"), lambda: held.grow(41, "the body")):
        with pytest.raises(Busy, match=r"41 bytes: 60 of the 100") as refused:
            ask()
        assert (refused.value.status, refused.value.retry_after_seconds) == (503, 1.0)
    assert (budget.used_bytes, held.num_bytes) == (60, 60)


def test_a_reservation_is_given_back_once() -> None:
    budget = ByteBudget(100)
    other = budget.reserve(10, "another")
    held = budget.reserve(60, "the body")

    held.release()
    held.release()

    assert (budget.used_bytes, other.num_bytes) == (10, 10)


def test_without_a_budget_everything_is_granted() -> None:
    held = Reservation()

    held.grow(2**50, "the body")

    assert held.num_bytes == 2**50


def test_bytes_beside_a_reservation_are_given_back_on_their_own() -> None:
    budget = ByteBudget(100)
    reservation = budget.reserve(10, "the body")
    with reservation.beside(60, "the image"):
        assert budget.used_bytes == 70
        with pytest.raises(Busy):
            reservation.beside(60, "the image")
    assert budget.used_bytes == 10
