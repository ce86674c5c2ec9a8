"""A ledger in memory."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from reconciler.core.entities import Event, Record, State
from reconciler.core.estimates import LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.lease import Lease
from reconciler.errors import LedgerUnreachable, Moved, NotLeader
from reconciler.ports import Advance, LedgerState, PlatformStatus
from reconciler.testing.lease import MemoryLeases


class MemoryLedger:
    """`ports.Ledger` in memory. What was written can be read from its attributes; `down` makes it unreachable."""

    def __init__(self) -> None:
        """Begin empty, at base 0. `fence` may be set as `SqlLedger` is given one; `leases` are its lease."""
        self.base = 0
        self.revision: str | None = None
        self.records: dict[str, Record] = {}
        self.events: list[Event] = []
        self.users: set[str] = set()
        self.status: PlatformStatus | None = None
        self.load_times = LoadTimes()
        self.carried: Carried | None = None
        self.down = False
        self.leases = MemoryLeases()
        self.fence: Callable[[], Lease] | None = None
        self._nudges = 0

    def load(self) -> LedgerState:
        """Keep `ports.Ledger.load`."""
        self._reach()
        living = {key: record for key, record in self.records.items() if record.state is not State.DELETED}
        return LedgerState(self.base, self.revision, MappingProxyType(living), self.load_times, self.carried)

    def record(self, base: int, advance: Advance) -> int:
        """Keep `ports.Ledger.record`."""
        self._reach()
        if base != self.base:
            raise Moved(f"the ledger is at base {self.base}, no longer at {base}")
        if self.fence is not None:
            mine, found = self.fence(), self.leases.read()
            if (found.token, found.holder) != (mine.token, mine.holder):
                raise NotLeader(f"the lease has gone from token {mine.token} to {found.token}")
        if advance.moves(self.revision):
            self.base += 1
        self.revision = advance.revision
        self.records |= {record.identity.model_key: record for record in advance.records}
        self.events += advance.events
        self.users |= advance.users
        self.status = advance.status or self.status
        self.load_times = advance.load_times or self.load_times
        self.carried = advance.carried or self.carried
        return self.base

    def nudges(self) -> int:
        """Keep `ports.Ledger.nudges`."""
        self._reach()
        return self._nudges

    def nudge(self) -> None:
        """Keep `ports.Ledger.nudge`."""
        self._reach()
        self._nudges += 1

    def _reach(self) -> None:
        if self.down:
            raise LedgerUnreachable("the ledger does not answer")
