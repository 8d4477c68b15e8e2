"""What the tests of deployment share."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build"


def promtool(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own tool, with a text on its standard input."""
    return subprocess.run(["promtool", *map(str, arguments)], input=given, capture_output=True, text=True)
