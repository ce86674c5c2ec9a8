"""One reconciler's part in the lease: taking it, renewing it on a thread of its own, and knowing when it is lost.

The rules are `core.lease`; here are the clock, the thread, and who this reconciler is.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from reconciler.core.lease import RENEW_SHARE, VALID_SHARE, Lease, Sighting, is_valid, may_be_taken, sighted
from reconciler.errors import LedgerUnreachable, NotLeader
from reconciler.ports import Leases

log = logging.getLogger(__name__)

LOCK = "reconciler.lock"
_TENDED_SHARE = 0.1
"""Part of the patience between two looks: with 10 s, whoever waits sees a sign of life at most 1 s late."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_clock() -> float:
    """Give the seconds since this machine started, those included in which it was suspended (time.monotonic stops)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Claim(NamedTuple):
    """A reconciler's name, and whether the state folder is its own."""

    name: str
    has_folder: bool


def claim(folder: Path) -> Claim:
    """Name this reconciler after the state folder's lock where that can be had, else by chance.

    The lock's name is made of the machine, its last start and the file, and the kernel lets go of the lock when its
    process ends, however that ends. So whoever gets the lock knows that the last one of this name is dead, and need
    not wait until that one's lease has run out. Raises OSError where the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # open until this process ends
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return Claim(f"{socket.gethostname()}-{secrets.token_hex(4)}", has_folder=False)
    status = os.fstat(descriptor)
    seed = f"{_BOOT_ID.read_text()} {status.st_dev} {status.st_ino}"
    return Claim(f"{socket.gethostname()}-{hashlib.sha256(seed.encode()).hexdigest()[:8]}", has_folder=True)


class Leadership:
    """What this process knows of the lease. Safe for threads.

    It leads from the moment it has taken the lease until it learns that somebody else has. In between it may be unable
    to renew; then it stops acting (`is_leading`, `confirm`) before anybody else may take the lease, and goes on when it
    could renew after all.
    """

    def __init__(
        self,
        leases: Leases,
        holder: str,
        patience_s: float,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Begin as one that waits.

        Args:
            leases: The lease.
            holder: This process's name. A lease under this name is taken at once, but only the first time: the last
                process of that name is dead (`claim`). One that has lost its lease waits like all others.
            patience_s: How long this process may be silent before another takes over.
            clock: Seconds that only grow, and go on while the machine sleeps.
        """
        self._leases = leases
        self.holder = holder
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.RLock()
        self._held: Lease | None = None
        self._renewed_at = 0.0
        self._seen: Sighting | None = None
        self._has_led = False

    @property
    def token(self) -> int | None:
        """The fencing token; None for one that waits."""
        held = self._held
        return held.token if held else None

    def fence(self) -> Lease:
        """Give the lease that writes are made under. Raises NotLeader."""
        held = self._held
        if held is None:
            raise NotLeader("another reconciler holds the lease")
        return held

    def is_leading(self) -> bool:
        """Say whether this process may count on the lease now."""
        with self._lock:
            return self._held is not None and is_valid(self._renewed_at, self._patience_s, self._clock())

    def confirm(self) -> None:
        """Make sure of the lease in the ledger itself, as close to an effect as can be.

        Raises NotLeader where it is lost, and LedgerUnreachable where the ledger does not say so in time.
        """
        held, began = self.fence(), self._clock()
        if not self._renew(held, began):
            raise NotLeader(f"the lease with token {held.token} is lost: another reconciler works")
        took = self._clock() - began
        if took > self._patience_s * VALID_SHARE / 2:
            raise LedgerUnreachable(f"the ledger took {took:.1f} s to confirm the lease: too long to act upon it")

    def tend(self) -> None:
        """Renew what is held when it is time, or take what may be taken. Raises LedgerUnreachable."""
        held, now = self._held, self._clock()
        if held is None:
            self._look()
        elif now - self._renewed_at >= self._patience_s * RENEW_SHARE:
            self._renew(held, now)

    def release(self) -> None:
        """Give the lease back, so that another takes it at once. Raises LedgerUnreachable."""
        held, self._held = self._held, None
        if held is not None:
            self._leases.release(held)

    def _renew(self, held: Lease, began: float) -> bool:
        if self._leases.renew(held):
            with self._lock:
                self._renewed_at = max(self._renewed_at, began)
            return True
        with self._lock:
            if self._held == held:
                self._held, self._seen = None, None
                log.warning("the lease with token %d is lost; waiting for it", held.token)
        return False

    def _look(self) -> None:
        lease = self._leases.read()
        now = self._clock()
        self._seen = sighted(self._seen, lease, now)
        own = lease.holder == self.holder and not self._has_led
        if not own and not may_be_taken(self._seen, now):
            return
        began = self._clock()
        taken = self._leases.take(lease, self.holder, self._patience_s)
        if taken is not None:
            with self._lock:
                self._held, self._renewed_at, self._has_led, self._seen = taken, began, True, None
            log.info("leading with token %d as %s", taken.token, self.holder)


class Keeper:
    """Tends the lease on a thread of its own, however long a pass takes, until `stop`."""

    def __init__(self, leadership: Leadership, patience_s: float, on_gain: Callable[[], None]) -> None:
        """Prepare. `on_gain` is called, on that thread, each time the lease was gained."""
        self._leadership = leadership
        self._every_s = patience_s * _TENDED_SHARE
        self._on_gain = on_gain
        self._ending = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Look once, so that a lease that is free is held when this returns; then go on in the background."""
        self._tend()
        self._thread.start()

    def stop(self) -> None:
        """Tend it no more, and give it back."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._leadership.release()
        except LedgerUnreachable as error:
            log.warning("the lease could not be given back, and runs out: %s", error)

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            self._tend()

    def _tend(self) -> None:
        before = self._leadership.token
        try:
            self._leadership.tend()
        except LedgerUnreachable as error:
            if str(error) != self._said:
                self._said = str(error)
                log.warning("the lease cannot be tended: %s", error)
        except Exception:  # this thread must not end: the lease would be lost with it
            log.exception("the lease cannot be tended")
        else:
            self._said = ""
        if self._leadership.token not in {None, before}:
            self._on_gain()
