"""A whole platform in memory around the real loop. Time passes only when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from reconciler.core.arrivals import Arrival
from reconciler.core.entities import Event, Record
from reconciler.errors import LedgerUnreachable
from reconciler.loop import Reconciler, Rules
from reconciler.names import spec_path
from reconciler.ports import Advance
from reconciler.spec import Limits
from reconciler.testing import MemoryFolders, MemoryFront, MemoryLedger, MemoryNotes, MemoryRuntime, MemorySource

GOOD = "/private/hf/good"
OTHER = "/private/hf/other"
BROKEN = "/private/hf/broken"  # there, and of the right form, but no engine comes up with it
MISSING = "/private/hf/missing"
RULES = Rules(limits=Limits(), retry_delays_s=(15, 60), platform="{}")


class ForgetfulLedger(MemoryLedger):
    """A ledger that can lose what the next pass did, as when the process dies between acting and writing down."""

    lose_next_write = False
    writes = 0

    def record(self, base: int, advance: Advance) -> int:
        self.writes += 1
        if self.lose_next_write and advance.status is not None:  # what a pass intends to do has none
            self.lose_next_write = False
            raise LedgerUnreachable("killed before it was written down")
        return super().record(base, advance)


class MemoryRoad:
    """`ports.Road` that is open for the models in `open_for`, and remembers what was asked."""

    def __init__(self) -> None:
        self.open_for: set[str] = set()
        self.asked: list[Arrival] = []

    def reached(self, arrivals: Sequence[Arrival]) -> set[str]:
        self.asked += arrivals
        return {one.model_key for one in arrivals} & self.open_for


class World:
    """The loop with its four collaborators, and a clock."""

    def __init__(self, total_gpus: int = 8) -> None:
        self.now = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
        self.source = MemorySource()
        self.runtime = MemoryRuntime(total_gpus)
        self.runtime.broken.add(BROKEN)
        self.road: MemoryRoad | None = None
        self.folders = MemoryFolders([GOOD, OTHER, BROKEN])
        self.front = MemoryFront()
        self.ledger = ForgetfulLedger()
        self.notes = MemoryNotes()
        self.restart()

    def restart(self) -> None:
        """Begin a new reconciler process: only what is outside of it stays."""
        self.loop = Reconciler(
            self.source,
            self.folders,
            self.runtime,
            self.front,
            self.ledger,
            RULES,
            lambda: self.now,
            road=self.road,
            notes=self.notes,
        )

    def write(self, user: str, suffix: str, text: str | None, author: str | None = None) -> str:
        content = None if text is None else text.encode()
        return self.source.commit({spec_path(user, suffix): content}, author=author or user)

    def settle(self, passes: int = 6) -> None:
        """Let the loop and the runtime go on until both have nothing left to do."""
        for _ in range(passes):
            self.step()
        self.loop.reconcile_once()

    def step(self) -> None:
        """Let one pass and one moment go by."""
        self.loop.reconcile_once()
        self.runtime.step()
        self.now += timedelta(seconds=1)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def key(self, user: str, suffix: str) -> str:
        path = spec_path(user, suffix)
        files = self.source.read(None).tree.files
        return next(key for key, file in files.items() if file.identity.path == path)

    def record(self, user: str, suffix: str) -> Record:
        return self.ledger.records[self.key(user, suffix)]

    def events(self, key: str) -> list[Event]:
        return [event for event in self.ledger.events if event.model_key == key]

    def types(self, key: str) -> list[str]:
        return [event.event_type.value for event in self.events(key)]


def spec(
    suffix: str,
    source: str = GOOD,
    replicas: int = 1,
    gpus: int = 1,
    *,
    seed: int | None = None,
    strategy: str | None = None,
) -> str:
    """Give the text of a spec."""
    lines = [f"model_id: {suffix}", f"model_source: {source}", f"num_replicas: {replicas}", f"gpus_per_replica: {gpus}"]
    if strategy is not None:
        lines.append(f"update_strategy: {strategy}")
    if seed is not None:
        lines += ["engine_kwargs:", f"  seed: {seed}"]
    return "\n".join(lines) + "\n"
