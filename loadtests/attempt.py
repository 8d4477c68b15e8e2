"""Runs a benchmark as far as it comes, so that what was measured is reported in any case. It knows no benchmark."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

INTERRUPTED = 130


def attempt(run: Callable[[], None], console: Console) -> int:
    """Run: 0 at its end, 1 when a part failed, INTERRUPTED when the user had enough; the console says so."""
    try:
        run()
    except (RuntimeError, OSError) as error:
        console.print(f"The benchmark stopped early: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; every process that was started has been stopped.")
        return INTERRUPTED
    return 0
