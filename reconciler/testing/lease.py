"""A lease in memory."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

from reconciler.core.lease import Lease
from reconciler.errors import LedgerUnreachable


class MemoryLeases:
    """`ports.Leases` in memory. `lease` may be looked at; `down` makes it unreachable."""

    def __init__(self) -> None:
        """Begin with a lease that nobody has held."""
        self.lease = Lease(0, None, 0, 0.0)
        self.down = False
        self._lock = threading.Lock()

    def read(self) -> Lease:
        """Keep `ports.Leases.read`."""
        self._reach()
        return self.lease

    def take(self, seen: Lease, holder: str, patience_s: float) -> Lease | None:
        """Keep `ports.Leases.take`."""
        self._reach()
        with self._lock:
            if (self.lease.token, self.lease.holder, self.lease.renewals) != (seen.token, seen.holder, seen.renewals):
                return None
            self.lease = Lease(seen.token + 1, holder, 0, math.ceil(patience_s * 1000) / 1000)
            return self.lease

    def renew(self, held: Lease) -> bool:
        """Keep `ports.Leases.renew`."""
        return self._change(held, held.holder)

    def release(self, held: Lease) -> bool:
        """Keep `ports.Leases.release`."""
        return self._change(held, None)

    def _change(self, held: Lease, holder: str | None) -> bool:
        self._reach()
        with self._lock:
            if (self.lease.token, self.lease.holder) != (held.token, held.holder):
                return False
            self.lease = replace(self.lease, holder=holder, renewals=self.lease.renewals + 1)
            return True

    def _reach(self) -> None:
        if self.down:
            raise LedgerUnreachable("the ledger does not answer")
