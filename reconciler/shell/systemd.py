"""The sign of life that systemd waits for where a unit says `WatchdogSec` (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

EVERY_S = 5.0


class Watchdog:
    """Tells systemd that this process is alive, at most every five seconds. Without systemd it does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic) -> None:
        """Find systemd by `environ`."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        self._next_at = clock()

    def tell(self) -> None:
        """Give a sign of life where one is due. Never waits, never raises: a sign that is missed is given again."""
        if not self._address or self._clock() < self._next_at:
            return
        self._next_at = self._clock() + EVERY_S
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"WATCHDOG=1", self._address)
