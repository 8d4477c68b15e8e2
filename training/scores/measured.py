"""Scores in a run folder, piece by piece: what is measured once is read back, so that a scoring can be interrupted.

It owns the file's layout: sections, each with the protocol that its pieces were measured by. It knows no score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCORES_FILE = "scores.json"


class Measured:
    """One section of a file of scores; pieces that were measured by another protocol are dropped."""

    def __init__(self, path: Path, section: str, protocol: Mapping[str, Any]) -> None:
        """Take a protocol of JSON values."""
        self.path = path
        self.section = section
        self.protocol = dict(protocol)

    def piece(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return the piece as JSON values, measuring it where the file has none."""
        document = self._document()
        entry = document.get(self.section)
        # A figure belongs to how it was measured: another number of samples, other weights, and it is measured again.
        if entry is None or entry["protocol"] != self.protocol:
            entry = {"protocol": self.protocol, "pieces": {}}
        if name not in entry["pieces"]:
            entry["pieces"][name] = measure()
            # Read again: measuring takes long, and another section may have been written meanwhile.
            self._write(self._document() | {self.section: entry})
        return entry["pieces"][name]

    def _document(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        document: dict[str, Any] = json.loads(self.path.read_text())
        return document

    def _write(self, document: dict[str, Any]) -> None:
        # Moved into place when complete, as checkpoints are.
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(document, indent=2) + "\n")
        partial.replace(self.path)
