"""Structured logs, as console text or JSON lines. It owns the format, not what is worth logging."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class ConsoleFormatter(logging.Formatter):
    """One readable line a record: time, level, process, message, then the extra fields as `key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = super().format(record)
        extras = " ".join(f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD)
        return f"{line}  {extras}" if extras else line


def configure_logging(settings: Settings, process: str) -> None:
    """Send every log record of this process to standard error, in the format that the settings ask for."""
    wants_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json_formatter(process) if wants_json else _console_formatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _json_formatter(process: str) -> logging.Formatter:
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        static_fields={"process": process},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def _console_formatter(process: str) -> logging.Formatter:
    return ConsoleFormatter(f"%(asctime)s %(levelname)-7s {process}: %(message)s", datefmt="%H:%M:%S")
