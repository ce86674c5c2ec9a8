"""Waking up at once when something is written on this disk, instead of at the next look.

Linux tells of it (inotify). Where it does not (a network disk that another machine writes to, another system), nothing
is lost: whoever waits looks again when the time is up.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NUDGED = "nudged"
"""The file in the state folder's `run` that is written beside each nudge, for a reconciler on the same machine."""

_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_DELETE = 0x8, 0x80, 0x200  # <sys/inotify.h>
_MASK = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_DELETE
_MOST_BYTES = 64 * 1024


def ring(home: Path) -> None:
    """Wake a reconciler that waits on the state folder `home`. Never raises: it looks now and then anyway."""
    with suppress(OSError):
        (home / "run" / NUDGED).write_bytes(b"")


class Wake:
    """Waits until a file directly in one of some folders is written, put in another's place or removed.

    It only says when to look, never what there is to see. A folder may come, go and come again. Used by one thread.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Wait on `folders`."""
        self._folders = [os.fsencode(folder) for folder in folders]
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            opened: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:  # not Linux
            opened = -1
        self._opened = opened if opened >= 0 else None  # -1: the user has as many as the system allows
        self._follow()

    def wait(self, timeout_s: float) -> None:
        """Wait for something, at most `timeout_s` seconds. What happened since the last call counts, too."""
        if self._opened is None:
            time.sleep(timeout_s)
            return
        self._follow()
        readable, _, _ = select.select([self._opened], [], [], timeout_s)
        if readable:
            self._drain(self._opened)

    def close(self) -> None:
        """Wait on nothing any more."""
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _follow(self) -> None:
        """Follow the folders that are there now: twice the same is once, and a system call that takes a microsecond."""
        if self._opened is not None:
            for folder in self._folders:
                self._libc.inotify_add_watch(self._opened, folder, _MASK)

    @staticmethod
    def _drain(opened: int) -> None:
        with suppress(BlockingIOError):
            while os.read(opened, _MOST_BYTES):
                pass
