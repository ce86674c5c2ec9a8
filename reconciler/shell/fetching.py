"""Fetching from a remote that may be slow, hang or be gone: nobody waits longer for it than he wants to.

One fetch at a time, on a thread of its own. Who asks while one is under way waits for its end or goes on without it.
After a failure the remote is left alone for a while, longer each time, unless somebody knows better.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.errors import SourceUnreachable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""After failures in a row a remote is asked again in 1, 2, 4, 8, 16, 30, 30, ... seconds, each cut by up to a half."""

IMPATIENT_PAUSE_S = 2.0
"""The longest pause for somebody who cannot go on without the newest: a write."""

STUCK_S = 5.0
"""A fetch that has taken this long, in seconds, is waited for by nobody who came later."""


@dataclass(slots=True)
class _Run:
    """One fetch under way."""

    began: float
    done: threading.Event = field(default_factory=threading.Event)
    error: SourceUnreachable | None = None


class Fetcher:
    """Brings a mirror up to date for the threads of one process."""

    def __init__(self, fetch: Callable[[], None]) -> None:
        """`fetch` does it, and raises SourceUnreachable."""
        self._fetch = fetch
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._fetched_at = -math.inf
        self._failures = 0
        self._failed_at = -math.inf
        self._pause_s = 0.0
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why the last fetch failed; None where it did not."""
        return self._trouble

    def refuse_if_stuck(self) -> None:
        """Raise SourceUnreachable where a fetch has been under way for `STUCK_S`."""
        run = self._run
        if run is not None and time.monotonic() - run.began > STUCK_S:
            raise SourceUnreachable(f"git fetch has been under way for {time.monotonic() - run.began:.0f} s")

    def forget(self) -> None:
        """Count what was fetched as old."""
        with self._lock:
            self._fetched_at = -math.inf

    def bring(self, *, patience_s: float, max_age_s: float = 0, longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        """Have a fetch that began `max_age_s` ago at most, waiting `patience_s` at most.

        With `longest_pause_s` a remote that failed is asked again after that time at the latest. Raises
        SourceUnreachable where the fetch fails, is not done in time, or is not even tried so soon after a failure.
        """
        asked = time.monotonic()
        while True:
            run = self._join(asked, max_age_s, longest_pause_s)
            if run is None:
                return
            if not run.done.wait(max(0.0, asked + patience_s - time.monotonic())):
                raise SourceUnreachable(f"git fetch has not ended after {time.monotonic() - run.began:.0f} s")
            if run.error is not None:
                raise SourceUnreachable(str(run.error))
            if run.began >= asked:
                return

    def _join(self, asked: float, max_age_s: float, longest_pause_s: float) -> _Run | None:
        """Give the fetch to wait for; None where there is nothing to wait for."""
        with self._lock:
            now = time.monotonic()
            if now - self._fetched_at <= max_age_s:
                return None
            if self._run is not None:
                if self._run.began < asked and now - self._run.began > STUCK_S:
                    raise SourceUnreachable(f"git fetch has been under way for {now - self._run.began:.0f} s")
                return self._run
            if self._failures and now < self._failed_at + min(self._pause_s, longest_pause_s):
                raise SourceUnreachable(self._trouble or "git fetch failed")
            self._run = _Run(now)
            threading.Thread(target=self._work, args=(self._run,), name="argus-fetch", daemon=True).start()
            return self._run

    def _work(self, run: _Run) -> None:
        try:
            self._fetch()
        except SourceUnreachable as error:
            run.error = error
        except Exception as error:  # whoever waits must hear of it
            run.error = SourceUnreachable(f"git fetch failed: {type(error).__name__}")
        with self._lock:
            self._run = None
            if run.error is None:
                self._fetched_at, self._failures, self._trouble = run.began, 0, None
            else:
                self._failures += 1
                self._failed_at, self._trouble = time.monotonic(), str(run.error)
                self._pause_s = pause_s(self._failures) * random.uniform(0.5, 1)
        run.done.set()


def pause_s(failures: int) -> float:
    """Give the pause after so many failures in a row, in seconds."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))
