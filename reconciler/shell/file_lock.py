"""One process of a machine at a time, by a lock on a file. The file stays, the lock does not.

The lock belongs to an open file, so it ends with its process at the latest.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_EVERY_S = 0.005


@contextmanager
def alone(file: Path, wait_s: float) -> Iterator[None]:
    """Be the only one inside. Raises TimeoutError after `wait_s` seconds, OSError without such a file."""
    opened = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _lock(opened, wait_s)
        yield
    finally:
        os.close(opened)


def _lock(opened: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return
