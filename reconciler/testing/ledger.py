"""A ledger in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import MappingProxyType

from reconciler.core.cases import Case, CaseId
from reconciler.core.entities import Event, Record, State
from reconciler.core.estimates import LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.lease import Lease
from reconciler.core.ownership import Ruling
from reconciler.core.upkeep import Upkeep
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
        self.cases: dict[CaseId, Case] = {}
        self.users: set[str] = set()
        self.status: PlatformStatus | None = None
        self.load_times = LoadTimes()
        self.carried: Carried | None = None
        self.rulings: frozenset[Ruling] = frozenset()
        self.upkeep = Upkeep()
        self.down = False
        self.leases = MemoryLeases()
        self.fence: Callable[[], Lease] | None = None
        self._nudges = 0
        self._published: set[CaseId] = set()

    def load(self) -> LedgerState:
        """Keep `ports.Ledger.load`."""
        self._reach()
        living = {key: record for key, record in self.records.items() if record.state is not State.DELETED}
        still_open = tuple(case for case in self.cases.values() if case.verdict is None)
        records = MappingProxyType(living)
        return LedgerState(
            self.base,
            self.revision,
            records,
            self.load_times,
            self.carried,
            still_open,
            self.rulings,
            self.upkeep,
        )

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
        restored = {case.id for case in advance.restored}
        for case in (*advance.restored, *advance.cases):
            known = self.cases.get(case.id)
            if known is None or known.verdict is None:
                self.cases[case.id] = case
                self._published |= {case.id} & restored
        self.users |= advance.users
        self.status = advance.status or self.status
        self.load_times = advance.load_times or self.load_times
        self.carried = advance.carried or self.carried
        self.rulings = self.rulings if advance.rulings is None else advance.rulings
        self.upkeep = advance.upkeep or self.upkeep
        return self.base

    def on_record(self, commits: Collection[str]) -> frozenset[CaseId]:
        """Keep `ports.Ledger.on_record`."""
        self._reach()
        return frozenset(id_ for id_ in self.cases if id_[0] in commits)

    def unpublished(self, commits: int) -> tuple[Case, ...]:
        """Keep `ports.Ledger.unpublished`."""
        self._reach()
        closed = [case for case in self.cases.values() if case.verdict is not None]
        due = dict.fromkeys(case.commit.sha for case in closed if case.id not in self._published)
        chosen = list(due)[:commits]
        return tuple(case for sha in chosen for case in closed if case.commit.sha == sha)

    def published(self, cases: Sequence[Case]) -> None:
        """Keep `ports.Ledger.published`."""
        self._reach()
        self._published |= {case.id for case in cases}

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
