"""Passing word on to the reconciler for many at a time: one write at a time, and nobody waits for it for long."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Nudger:
    """Nudges for whoever asks. Who asks while a nudge is being written shares the next one. Safe for threads."""

    def __init__(self, nudge: Callable[[], None]) -> None:
        """`nudge` does it, and never raises."""
        self._nudge = nudge
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._works = False

    def ask(self, patience_s: float) -> bool:
        """Have a nudge that begins after this call, and wait `patience_s` for it. False where it is still to come."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="argus-nudge", daemon=True).start()
            return self._changed.wait_for(lambda: self._done >= mine, patience_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                upto = self._asked
                if self._done == upto:
                    self._works = False
                    return
            self._nudge()
            with self._changed:
                self._done = upto
                self._changed.notify_all()
