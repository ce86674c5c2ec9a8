"""Waiting without looking away: whatever the front door waits for, signals and children are attended to meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from argus.errors import ClientError, Stopped

TICK_S = 0.1

T = TypeVar("T")


class Waiting:
    """Lets time pass in ticks. `on_tick` looks after the children; it runs in the thread that waits."""

    def __init__(self, on_tick: Callable[[], None]) -> None:
        self._on_tick = on_tick
        self._signals = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count SIGTERM, SIGINT and SIGHUP: the first makes whoever waits stop, the second makes stopping hurry."""

        def asked(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def is_asked_to_stop(self) -> bool:
        """Say whether somebody asked the platform to stop."""
        return self._signals > 0

    def is_in_a_hurry(self) -> bool:
        """Say whether somebody asked twice."""
        return self._signals > 1

    def tick(self) -> None:
        """Let a moment pass. Raises Stopped."""
        if self._signals:
            raise Stopped
        time.sleep(TICK_S)
        self._on_tick()

    def rest(self, seconds: float) -> None:
        """Let `seconds` pass. Raises Stopped."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.tick()

    def until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Wait for `done`, at most `limit_s` seconds; gives whether it came about. Raises Stopped."""
        end = time.monotonic() + limit_s
        while not done():
            if time.monotonic() >= end:
                return False
            self.tick()
        return True

    def in_background(self, work: Callable[[], T]) -> T:
        """Do in a thread what may take long. Raises what `work` raises, and Stopped, which leaves the thread behind."""
        outcome: list[T] = []
        trouble: list[Exception] = []

        def run() -> None:
            try:
                outcome.append(work())
            except Exception as error:  # handed over to the waiting thread, whatever it is
                trouble.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(TICK_S)
        while thread.is_alive():
            self.tick()
        if trouble:
            raise trouble[0]
        return outcome[0]

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Ask over HTTP, in a thread; None where nobody answers, or with an error. Raises Stopped."""
        try:
            return self.in_background(work)
        except ClientError:
            return None
