"""Structured logs, as console text or JSON lines. It owns the format, not what is worth logging."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable

from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings
from service.telemetry.audit import NAME as AUDIT

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class ConsoleFormatter(logging.Formatter):
    """One readable line a record: time, level, process, message, then the extra fields as `key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = super().format(record)
        extras = " ".join(f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD)
        return f"{line}  {extras}" if extras else line


class ScarceLog:
    """Warns of what callers may cause as often as they like, at most once in some seconds.

    `count` says how often it happened since the last line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        message: str,
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._message = message
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._next_at = -math.inf
        self._count = 0

    def warn(self, **fields: object) -> None:
        """Count it, and log it if the last line is old enough."""
        self._count += 1
        now = self._clock()
        if now >= self._next_at:
            self._logger.warning(self._message, extra={"count": self._count, **fields})
            self._next_at, self._count = now + self._interval_seconds, 0


def configure_logging(settings: Settings, process: str) -> None:
    """Send every log record of this process to standard error, in the format that the settings ask for."""
    wants_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json_formatter(process) if wants_json else _console_formatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    configure_audit(process)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def configure_audit(process: str) -> None:
    """Send the audit log to standard error: as JSON whatever the settings ask for, and all of it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json_formatter(process))
    log = logging.getLogger(AUDIT)
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _json_formatter(process: str) -> logging.Formatter:
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        static_fields={"process": process},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def _console_formatter(process: str) -> logging.Formatter:
    return ConsoleFormatter(f"%(asctime)s %(levelname)-7s {process}: %(message)s", datefmt="%H:%M:%S")
