"""How the number of users changes: smoke, steps, spike and soak, as tables. It knows no Locust and no clock."""

from __future__ import annotations

from dataclasses import dataclass

CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the whole time, and of the largest number of users."""

    time: float
    users: float


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: its stages, its default length and number of users, and whether it looks for the limit.

    Where it does, later stages are meant to be too much, and only what was sustained is judged.
    """

    stages: tuple[Stage, ...]
    seconds: float
    users: int
    finds_limit: bool = False

    def users_at(self, seconds: float, total_seconds: float, most_users: int) -> int | None:
        """How many users there should be after some seconds; None at the end."""
        passed = 0.0
        for stage in self.stages:
            passed += stage.time * total_seconds
            if seconds < passed:
                return max(1, round(stage.users * most_users))
        return None


def _equal(*shares: float) -> tuple[Stage, ...]:
    return tuple(Stage(1 / len(shares), share) for share in shares)


SHAPES = {
    "smoke": Shape(_equal(1.0), seconds=20, users=10),
    "steps": Shape(_equal(0.1, 0.2, 0.4, 0.6, 0.8, 1.0), seconds=60, users=200, finds_limit=True),
    "spike": Shape((Stage(0.4, 0.1), Stage(0.2, 1.0), Stage(0.4, 0.1)), seconds=120, users=100, finds_limit=True),
    "soak": Shape(_equal(1.0), seconds=1800, users=10),
}
