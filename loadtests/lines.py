"""How a benchmark talks to a process of its own: a JSON job a line in, a JSON answer a line out.

It runs in the peers' own environments, so it needs nothing beyond the standard library. It knows no job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO, TypeVar

Job = TypeVar("Job")


def serve(
    load: Callable[[], Callable[[Job], Any]],
    job_type: Callable[..., Job],
    jobs: TextIO = sys.stdin,
    answers: TextIO = sys.stdout,
) -> None:
    """Load the engine, say that it is ready or why it is not there, and answer jobs (with dataclasses) to the end."""

    def say(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        answer = load()
    except ImportError as error:
        say({"unavailable": f"not installed: {error}"})
        return
    except Exception as error:  # whatever a peer raises is its reason
        say({"unavailable": f"{type(error).__name__}: {error}"})
        return
    say({"ready": True})
    for line in jobs:
        say(asdict(answer(job_type(**json.loads(line)))))
