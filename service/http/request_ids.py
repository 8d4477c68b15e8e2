"""The names of requests, by which answers and the log can be brought together, whatever carried them."""

from __future__ import annotations

import itertools
import re
import secrets

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """Names the requests of one process: as their callers do, or by a number of its own."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def name(self, told: str | None) -> str:
        """What the caller told as `X-Request-Id`, where that is fit to be repeated, or a new id."""
        if told is not None and _WELL_FORMED.fullmatch(told):
            return told
        return f"{self._prefix}-{next(self._numbers):x}"
