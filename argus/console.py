"""Progress: what is being waited for and for how long. On a terminal one line that is rewritten, else plain lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

QUIET_S = 10.0
"""Without a terminal a step that goes on says so this often, in seconds."""

_CLEAR = "\r\x1b[2K"


class Step:
    """One thing that is being done. `tell` says what it waits for now."""

    def __init__(self, title: str, out: TextIO) -> None:
        self._title = title
        self._out = out
        self._live = out.isatty()
        self._began = time.monotonic()
        self._said = self._began
        self._waits_for = ""
        if not self._live:
            self._write(f"  .. {title}\n")
        self.tell("")

    def tell(self, waits_for: str) -> None:
        """Say what the step waits for; call it often, it prints rarely."""
        self._waits_for = waits_for or self._waits_for
        now = time.monotonic()
        detail = f": {self._waits_for}" if self._waits_for else ""
        line = f"  .. {self._title}{detail} ({now - self._began:.0f} s)"
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be taken back
            self._write(f"{_CLEAR}{line[:width]}")
        elif now - self._said >= QUIET_S:
            self._said = now
            self._write(f"{line}\n")

    def end(self, mark: str, result: str) -> None:
        """Say how it ended."""
        start = _CLEAR if self._live else ""
        text = f": {result}" if result else ""
        self._write(f"{start}  {mark} {self._title}{text} ({time.monotonic() - self._began:.1f} s)\n")

    def _write(self, text: str) -> None:
        write(self._out, text)


class Console:
    """Where the person at the terminal reads how it goes."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._step: Step | None = None
        self._result = ""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step from its start to its end, good or bad."""
        self._step, self._result = Step(title, self._out), ""
        try:
            yield self._step
        except BaseException:
            self._step.end("--", "not done")
            raise
        else:
            self._step.end("ok", self._result)
        finally:
            self._step = None

    def result(self, text: str) -> None:
        """Say what came of the step that is being done; it is shown at its end."""
        self._result = text

    def tell(self, waits_for: str) -> None:
        """Say what the step that is being done waits for now."""
        if self._step:
            self._step.tell(waits_for)

    def tick(self) -> None:
        """Let the step that is being done show the time."""
        self.tell("")

    def say(self, text: str = "") -> None:
        """Print a line of its own."""
        start = _CLEAR if self._step and self._out.isatty() else ""
        write(self._out, f"{start}{text}\n")


def write(out: TextIO, text: str) -> None:
    """Write and flush. A reader who has gone away must not stop the platform."""
    with suppress(OSError, ValueError):
        out.write(text)
        out.flush()
