"""The ledger as the loop sees it (`ports.Ledger`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from sqlalchemy import Connection, Engine, delete, insert, select, update

from reconciler.core.announcements import Audience
from reconciler.core.cases import Case, CaseId
from reconciler.core.entities import Record, State
from reconciler.core.estimates import LoadTimes
from reconciler.core.identity import Carried
from reconciler.core.lease import Lease
from reconciler.core.ownership import Ruling, Rulings
from reconciler.core.upkeep import Upkeep
from reconciler.errors import Moved
from reconciler.ports import Advance, LedgerState
from reconciler.shell.ledger import outbox, rows, verdicts
from reconciler.shell.ledger.engine import insert_absent, reading, upsert, writing
from reconciler.shell.ledger.lease import guard
from reconciler.shell.ledger.schema import (
    ONLY,
    events,
    identities,
    load_times,
    loop,
    models,
    nudges,
    platform_status,
    upkeep,
    users,
)
from reconciler.shell.ledger.schema import rulings as held_changes

_STAND = select(loop.c.base, loop.c.revision).where(loop.c.id == ONLY)
_STEP = update(loop).where(loop.c.id == ONLY)


class SqlLedger:
    """`ports.Ledger` over a database. `nudges` and `nudge` may be called from any thread, the rest from one at a time.

    `base` grows with each `record` that changes what `load` gives or that adds events. A pass that only brings a
    newer status, or users, leaves it: whoever read before is not disturbed.
    """

    def __init__(
        self, engine: Engine, fence: Callable[[], Lease] | None = None, audience: Audience | None = None
    ) -> None:
        """Serve the ledger at `engine` (`open_ledger`).

        `fence` gives the lease under which is recorded, or raises NotLeader. Without one anybody may record: that is
        for tests and for tools, not for a loop. What `audience` is to be told of a pass is written with it.
        """
        self._engine = engine
        self._fence = fence
        self._audience = audience or Audience()
        self._last: LedgerState | None = None
        self._users: frozenset[str] = frozenset()

    def load(self) -> LedgerState:
        """Keep `ports.Ledger.load`. Where nothing changed since the last call it reads one row of one table."""
        with reading(self._engine) as connection:
            base, revision = connection.execute(_STAND).one()
            if self._last is None or self._last.base != base:
                # The records must be those of the base that is given with them: PostgreSQL holds writers off from
                # here to the end, SQLite reads a snapshot anyway.
                base, revision = connection.execute(_STAND.with_for_update(read=True)).one()
                living = MappingProxyType(_living(connection))
                loads, known = _load_times(connection), carried(connection)
                still_open, ruled = verdicts.open_cases(connection), rulings(connection).held
                kept = _upkeep(connection)
                self._last = LedgerState(base, revision, living, loads, known, still_open, ruled, kept)
        return self._last

    def record(self, base: int, advance: Advance) -> int:
        """Keep `ports.Ledger.record`. What was written is on the disk when it returns."""
        new_users = advance.users - self._users
        with writing(self._engine) as connection:
            found = connection.execute(_STAND.with_for_update()).one()
            if found.base != base:
                raise Moved(f"the ledger is at base {found.base}, no longer at {base}: somebody else wrote it")
            grown = base
            if advance.moves(found.revision):
                grown += 1
                connection.execute(_STEP.values(base=grown, revision=advance.revision))
            upsert(connection, models, [rows.record_row(record) for record in advance.records])
            if advance.events:
                connection.execute(insert(events), [rows.event_row(event) for event in advance.events])
            before = outbox.touched(connection, self._audience, advance)
            if advance.cases or advance.restored:
                verdicts.write(connection, advance.cases, advance.restored)
            outbox.announce(connection, self._audience, advance, before)
            cases = verdicts.open_cases(connection) if advance.cases else None
            _add_users(connection, new_users, advance)
            if advance.load_times is not None:
                upsert(connection, load_times, [{"id": ONLY, "document": advance.load_times.to_json()}])
            if advance.upkeep is not None:
                upsert(connection, upkeep, [{"id": ONLY, "document": advance.upkeep.to_json()}])
            if advance.carried is not None:
                upsert(connection, identities, [{"id": ONLY, **rows.carried_row(advance.carried)}])
            if advance.rulings is not None:
                _replace_rulings(connection, advance.rulings)
            if advance.status is not None:
                upsert(connection, platform_status, [{"id": ONLY, **rows.status_row(advance.status)}])
            guard(connection, self._fence)
        self._users |= new_users
        self._remember(base, grown, advance, cases)
        return grown

    def on_record(self, commits: Collection[str]) -> frozenset[CaseId]:
        """Keep `ports.Ledger.on_record`."""
        with reading(self._engine) as connection:
            return verdicts.on_record(connection, commits)

    def unpublished(self, commits: int) -> tuple[Case, ...]:
        """Keep `ports.Ledger.unpublished`."""
        with reading(self._engine) as connection:
            return verdicts.unpublished(connection, commits)

    def published(self, cases: Sequence[Case]) -> None:
        """Keep `ports.Ledger.published`."""
        with writing(self._engine) as connection:
            verdicts.mark_published(connection, cases)

    def nudges(self) -> int:
        """Keep `ports.Ledger.nudges`."""
        with reading(self._engine) as connection:
            count: int = connection.execute(select(nudges.c.count).where(nudges.c.id == ONLY)).scalar_one()
        return count

    def nudge(self) -> None:
        """Keep `ports.Ledger.nudge`. Any number of processes may call it at once."""
        with writing(self._engine) as connection:
            connection.execute(update(nudges).where(nudges.c.id == ONLY).values(count=nudges.c.count + 1))

    def _remember(self, base: int, grown: int, advance: Advance, cases: tuple[Case, ...] | None) -> None:
        if self._last is None or self._last.base != base:
            self._last = None
        elif grown != base:
            records = dict(self._last.records)
            for record in advance.records:
                if record.state is State.DELETED:
                    records.pop(record.identity.model_key, None)
                else:
                    records[record.identity.model_key] = record
            loads = advance.load_times or self._last.load_times
            known = advance.carried or self._last.carried
            still_open = self._last.cases if cases is None else cases
            ruled = self._last.rulings if advance.rulings is None else advance.rulings
            kept = advance.upkeep or self._last.upkeep
            living = MappingProxyType(records)
            self._last = LedgerState(grown, advance.revision, living, loads, known, still_open, ruled, kept)


def carried(connection: Connection) -> Carried | None:
    """Read the identities that were carried over; None where history was never rewritten."""
    found = connection.execute(select(identities.c.revision, identities.c.document)).first()
    return None if found is None else rows.carried_of(*found)


def rulings(connection: Connection) -> Rulings:
    """Read what was ruled upon commits, and up to which of them."""
    revision = connection.execute(_STAND).one().revision
    found = connection.execute(select(held_changes.c.commit_sha, held_changes.c.path))
    return Rulings(revision, frozenset((sha, path) for sha, path in found))


def _replace_rulings(connection: Connection, wanted: frozenset[Ruling]) -> None:
    known = rulings(connection).held
    for sha, path in sorted(known - wanted):
        connection.execute(delete(held_changes).where(held_changes.c.commit_sha == sha, held_changes.c.path == path))
    new = [{"commit_sha": sha, "path": path} for sha, path in sorted(wanted - known)]
    if new:
        connection.execute(insert(held_changes), new)


def _living(connection: Connection) -> dict[str, Record]:
    statement = select(models.c.model_key, models.c.record).where(models.c.state != State.DELETED.value)
    return {key: rows.record_of(text) for key, text in connection.execute(statement)}


def _load_times(connection: Connection) -> LoadTimes:
    found = connection.execute(select(load_times.c.document).where(load_times.c.id == ONLY)).scalar()
    return LoadTimes() if found is None else LoadTimes.from_json(found)


def _upkeep(connection: Connection) -> Upkeep:
    found = connection.execute(select(upkeep.c.document).where(upkeep.c.id == ONLY)).scalar()
    return Upkeep() if found is None else Upkeep.from_json(found)


def _add_users(connection: Connection, new: frozenset[str], advance: Advance) -> None:
    """Add users whose folders were found. Their time is the pass's: the folder does not say when a user began."""
    now = advance.status.seen_at if advance.status is not None else datetime.now(UTC)
    insert_absent(connection, users, [{"user_id": user_id, "created_at": now} for user_id in sorted(new)])
