"""The thread that drives one sequencer: it takes arrivals between steps, and sleeps while there is nothing to do.

The decoder is used here only, and no step waits for the event loop. It knows neither peers nor messages.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from service.engine.generation.sequencer import Sequencer
from service.engine.generation.sequences import Sequence
from service.errors import InferenceFailed

log = logging.getLogger(__name__)

Order = Callable[[Sequencer], None]


class SequencerThread:
    """Runs the steps of a sequencer until it is closed; other threads only leave orders."""

    def __init__(self, sequencer: Sequencer, name: str) -> None:
        self._sequencer = sequencer
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a prompt before the next step."""
        self._orders.put(lambda sequencer: sequencer.submit(sequence))

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before the next step."""
        self._orders.put(lambda sequencer: sequencer.cancel(sequence))

    def close(self) -> None:
        """End the thread after the step in hand."""
        self._orders.put(None)
        self._thread.join()

    def _work(self) -> None:
        while self._take_orders():
            try:
                self._sequencer.step()
            except RuntimeError as error:
                if "loop is closed" in str(error):
                    return  # the process is ending
                self._recover(error)
            except Exception as error:
                self._recover(error)

    def _take_orders(self) -> bool:
        """Carry out what is there, waiting for it while nothing else is to be done; False at the end."""
        while True:
            try:
                order = self._orders.get(block=self._sequencer.is_idle)
            except queue.Empty:
                return True
            if order is None:
                return False
            order(self._sequencer)

    def _recover(self, error: Exception) -> None:
        # A defect of ours fails those in hand, never the thread.
        log.error("a step failed unexpectedly", exc_info=error)
        failed = InferenceFailed("The step failed unexpectedly.")
        failed.__cause__ = error
        self._sequencer.fail_all(failed)
