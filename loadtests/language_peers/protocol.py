"""How the benchmark of language models talks to an engine's process: a JSON job a line in, a JSON answer a line out.

It runs in the peers' own environments, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from loadtests import lines


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts to continue all at once, greedily, each by `num_tokens`; as texts, and as the tokens of these."""

    texts: list[str]
    prompts: list[list[int]]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """For each prompt its tokens, and when each of them was there, in seconds from the job's beginning."""

    tokens: list[list[int]]
    times: list[list[float]]


Generate = Callable[[Job], Answer]


def serve(load: Callable[[], Generate], jobs: TextIO = sys.stdin, answers: TextIO = sys.stdout) -> None:
    """Load the engine, say that it is ready or why it is not there, and answer jobs until their end."""
    lines.serve(load, Job, jobs, answers)


def serve_peer(load: Callable[[Path, Path, int], Generate], description: str | None) -> None:
    """Answer jobs with the engine that `load` opens: from a folder, with scratch space, on threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", type=Path, required=True, help="the Hugging Face folder")
    parser.add_argument("--scratch", type=Path, required=True, help="where what is built from it is kept")
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    serve(lambda: load(given.source, given.scratch, given.threads))
