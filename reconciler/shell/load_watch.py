"""Whether an engine that loads gets anywhere and is still wanted, and the end of one that is not.

vLLM waits for its engine's process without a limit, on the very thread that all else of a replica runs on. So the watch
is a thread of its own, and it ends what is waited for: the wait then comes back by itself, with an error.

It knows neither Ray nor vLLM. Sent to the cluster by value: nodes need Ray and vLLM, not Argus.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

log = logging.getLogger(__name__)

_STDERR = 2


@dataclass(frozen=True)
class Pace:
    """How long is too long, in seconds: `limit_s` without progress."""

    limit_s: float
    in_all: int = 4
    """How many times `limit_s` a load may take whatever it shows. An engine may hang and say so every minute: vLLM's
    wait for a worker does."""
    look_s: float = 2.0
    back_s: float = 30.0
    """How long a load may take to come back once its processes are ended; then this process ends as well."""


class LoadEnded(Exception):
    """A load was ended. The message says why."""


class LoadWatch:
    """Watches a load for as long as it is entered. Leaving it raises LoadEnded where the load was ended.

    Args:
        pace: How long is too long.
        signs: Gives a number that is another one whenever there has been progress. Called on the watch's own thread.
        end: Ends every process that loads. Called again and again until the watch is left.
        is_stopped: Says whether what loads is not wanted any more.
        clock: Gives seconds.
    """

    def __init__(
        self,
        pace: Pace,
        signs: Callable[[], int],
        end: Callable[[], None],
        is_stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = "loading weights"
        self.longest_silence_s = 0.0
        self._why: str | None = None
        self._pace = pace
        self._signs = signs
        self._end = end
        self._is_stopped = is_stopped
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)

    def __enter__(self) -> LoadWatch:
        """Begin."""
        self._end_late(self._pace.limit_s + self._pace.back_s)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the load alone from here on. Its own error says less than that it was ended."""
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._why is not None and (error is None or isinstance(error, Exception)):
            raise LoadEnded(self._why)

    def _watch(self) -> None:
        began = changed = self._clock()
        last = self._signs()
        while not self._over.wait(self._pace.look_s):
            signs, now = self._signs(), self._clock()
            self.longest_silence_s = max(self.longest_silence_s, now - changed)
            if signs != last:
                last, changed = signs, now
            self._why = self._verdict(now - began, now - changed)
            if self._why is not None:
                self._end_load()
                return
            self._end_late(self._pace.limit_s + self._pace.back_s)

    def _verdict(self, taken_s: float, silent_s: float) -> str | None:
        if self._is_stopped():
            return f"it is not wanted any more: {self.phase} for {taken_s:.0f} s"
        pace = self._pace
        limit = f"serving.llm.load_timeout_s ({pace.limit_s:g} s) is the limit"
        if silent_s >= pace.limit_s:
            return f"it hangs: {self.phase} for {taken_s:.0f} s, the last {silent_s:.0f} s without progress; {limit}"
        if taken_s >= pace.in_all * pace.limit_s:
            return f"it comes to no end: {self.phase} for {taken_s:.0f} s; {pace.in_all} times {limit}"
        return None

    def _end_load(self) -> None:
        log.error("this load is ended: %s", self._why)
        self._end_late(self._pace.back_s)
        self._end()
        while not self._over.wait(self._pace.look_s):
            self._end()

    @staticmethod
    def _end_late(seconds: float) -> None:
        """End this process in so many seconds, unless called again: also where no Python of it runs any more.

        It prints where each thread is. Processes below a replica that has ended are ended by Ray.
        """
        faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
