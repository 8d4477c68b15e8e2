"""The locustfile: a class of users for each task, and the shape of the load. It works against any Hotplate service.

Run: locust -f loadtests/locustfile.py --host http://127.0.0.1:8000, for its page; with --headless --shape steps
--report DIR for a report and an exit status. The host is asked for its models and their tasks.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from locust import LoadTestShape

# Locust loads this file by its path, so the project's folder is not on the module path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtests.scenarios import running
from loadtests.scenarios.shapes import SHAPES
from loadtests.scenarios.users import ClassifyUser, CompleteUser, DrawUser, StylizeUser

__all__ = ["ClassifyUser", "CompleteUser", "DrawUser", "StagedShape", "StylizeUser"]

_SPAWN_SECONDS = 0.5
running.install()


class StagedShape(LoadTestShape):
    """The shape that --shape names; `constant` leaves the number of users to Locust's own options."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """The number of users now and how many a second may come or go; None at the end."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        seconds, shape = time.perf_counter() - self.start_time, SHAPES.get(options.shape)
        if shape is None:
            if options.run_time and seconds >= options.run_time:
                return None
            return options.num_users or 1, options.spawn_rate or 1
        most = options.shape_users or shape.users
        users = shape.users_at(seconds, options.shape_seconds or shape.seconds, most)
        return None if users is None else (users, max(1.0, most / _SPAWN_SECONDS))
