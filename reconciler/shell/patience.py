"""Whoever does not answer is asked by one at a time.

A git that hangs would otherwise take the time limit from everybody who asks it, one after the other, and with that all
threads of a process: also those that could say what is wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reconciler.errors import SourceUnreachable

_LOOK_EVERY_S = 0.25
"""How often somebody who waits for a lock looks whether there is any sense in it."""


def take(lock: threading.Lock, limit_s: float, refuse: Callable[[], None]) -> bool:
    """Wait for a lock whose holder may be asking, and say whether it was given within `limit_s` seconds.

    `refuse` is called meanwhile, and raises where nobody should wait for the holder any more.
    """
    until = time.monotonic() + limit_s
    while not lock.acquire(timeout=max(0.0, min(_LOOK_EVERY_S, until - time.monotonic()))):
        refuse()
        if time.monotonic() >= until:
            return False
    return True


class Patience:
    """With one that has let a question go unanswered, only one more is tried at a time, until it answers.

    Safe for threads.
    """

    def __init__(self, whom: str, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`whom` is what people call it. A question may take `limit_s`; `clock` gives seconds that never go back."""
        self.limit_s = limit_s
        self._whom = whom
        self._clock = clock
        self._lock = threading.Lock()
        self._silent_since: float | None = None
        self._is_tried = False

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Ask inside, and raise TimeoutError where no answer has come within the limit.

        Raises SourceUnreachable in its place, and at once where somebody else is trying already.
        """
        began = self._clock()
        with self._lock:
            self._refuse_if_tried()
            is_trial = self._is_tried = self._silent_since is not None
        try:
            yield
        except TimeoutError:
            self._silent_since = began if self._silent_since is None else self._silent_since
            raise SourceUnreachable(f"{self._whom} {what} did not finish within {self.limit_s:g} s") from None
        except BaseException:
            self._silent_since = None  # a complaint is an answer
            raise
        else:
            self._silent_since = None
        finally:
            if is_trial:
                self._is_tried = False

    def refuse_if_tried(self) -> None:
        """Raise SourceUnreachable where a question of one's own would be refused."""
        with self._lock:
            self._refuse_if_tried()

    def _refuse_if_tried(self) -> None:
        since = self._silent_since
        if since is not None and self._is_tried:
            raise SourceUnreachable(f"{self._whom} has not answered for {self._clock() - since:.0f} s")
