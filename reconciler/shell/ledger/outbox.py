"""The outbox: what is to be told to the outside, written with the pass that decided it, and kept until it has arrived.

Whoever delivers claims a letter first, for a time, and settles it afterwards. A process that dies in between leaves a
claim that runs out: the letter is delivered again, never lost. A newer announcement of the same id takes the place of
one that has not arrived; while that one is on its way it waits for the claim, so that they arrive in their order.

The table is bounded: what arrived is deleted at once, what was given up after a while (`tidy`), and of what waits for
one destination the oldest is given up beyond `MOST_WAITING`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, or_, select, update

from reconciler.core.announcements import Announcement, Audience, notifications, statuses
from reconciler.core.cases import Case
from reconciler.core.delivery import BoxState, Dead, Delivered, Fate, Later, Letter
from reconciler.core.lease import Lease
from reconciler.ports import Advance
from reconciler.shell.ledger import verdicts
from reconciler.shell.ledger.engine import reading, upsert, writing
from reconciler.shell.ledger.lease import guard
from reconciler.shell.ledger.schema import outbox

DEAD_KEPT = timedelta(days=30)
MOST_DEAD = 10_000
MOST_WAITING = 20_000
"""Of one destination. One row is about 1 KB, with a long error message 5 KB."""

LONGEST_TROUBLE = 500

_Cases: TypeAlias = Mapping[str, Sequence[Case]]

_AT_A_TIME = 500
_PENDING, _DEAD = BoxState.PENDING.value, BoxState.DEAD.value


@dataclass(frozen=True, slots=True)
class Entry:
    """A letter as people see it. `next_at` is when it is tried again, or when it was given up."""

    id: str
    number: int
    destination: str
    state: BoxState
    since: datetime
    next_at: datetime
    attempts: int
    trouble: str | None
    body: Mapping[str, Any] = field(hash=False)


def touched(connection: Connection, audience: Audience, advance: Advance) -> _Cases:
    """Give the cases of each commit that a pass has touched, as they are: to be asked before they are written."""
    if audience.statuses is None or not advance.cases:
        return {}
    return verdicts.of_commits(connection, [case.commit.sha for case in advance.cases])


def announce(connection: Connection, audience: Audience, advance: Advance, before: _Cases) -> None:
    """Write what a pass is to tell, after its cases were written. `before` is what `touched` gave."""
    now = advance.status.seen_at if advance.status is not None else datetime.now(UTC)
    after = touched(connection, audience, advance)
    found = (
        *statuses(audience.statuses, before, after),
        *notifications(audience, advance.events, advance.cases, now),
    )
    write(connection, found, now)


def write(connection: Connection, announcements: Sequence[Announcement], now: datetime) -> None:
    """Put announcements into the outbox, in their order."""
    if not announcements:
        return
    claims: dict[str, datetime | None] = {}
    ids = [each.id for each in announcements]
    for start in range(0, len(ids), _AT_A_TIME):
        mine = outbox.c.id.in_(ids[start : start + _AT_A_TIME])
        # Locked, where a database has such locks: whoever delivers must not claim one while it is replaced.
        statement = select(outbox.c.id, outbox.c.claimed_until).where(mine).with_for_update()
        claims |= {row.id: row.claimed_until for row in connection.execute(statement)}
    last: int = connection.execute(select(func.max(outbox.c.number))).scalar() or 0
    written = [
        {
            "id": each.id,
            "number": number,
            "destination": each.destination,
            "state": _PENDING,
            "since": now,
            "next_at": now,
            "claimed_until": claims.get(each.id),
            "attempts": 0,
            "body": json.dumps(each.body, separators=(",", ":")),
            "trouble": None,
        }
        for number, each in enumerate(announcements, start=last + 1)
    ]
    upsert(connection, outbox, written)


class Outbox:
    """The outbox for whoever delivers, and for admins. Safe for threads. Every method raises LedgerUnreachable."""

    def __init__(self, engine: Engine, fence: Callable[[], Lease] | None = None) -> None:
        """Use the ledger at `engine` (`open_ledger`). Claims are made under the lease that `fence` gives."""
        self._engine = engine
        self._fence = fence

    def claim(self, room: Mapping[str, int], now: datetime, until: datetime) -> list[Letter]:
        """Take letters that are due, at most so many as there is `room` for at each destination, the oldest first.

        They are the caller's until `until`. Nothing is written where nothing is due. Raises NotLeader.
        """
        with reading(self._engine) as connection:
            due = {name: free for name, free in room.items() if free > 0 and _due(connection, name, now, 1)}
        if not due:
            return []
        claimed: list[Letter] = []
        with writing(self._engine) as connection:
            for name, free in due.items():
                for row in _due(connection, name, now, free):
                    # By its number: a pass may replace it between the two statements.
                    same = (outbox.c.id == row.id) & (outbox.c.number == row.number)
                    taken = {"claimed_until": until, "attempts": row.attempts + 1}
                    if connection.execute(update(outbox).where(same).values(taken)).rowcount:
                        claimed.append(_letter(row, until))
            guard(connection, self._fence)
        return claimed

    def settle(self, letter: Letter, fate: Fate, now: datetime) -> None:
        """Write down what became of a letter that was claimed. One that somebody else has claimed since stays theirs.

        Where a newer announcement has taken its place meanwhile, that one is due now.
        """
        held = (outbox.c.id == letter.id) & (outbox.c.claimed_until == letter.claimed_until)
        same = held & (outbox.c.number == letter.number)
        with writing(self._engine) as connection:
            match fate:
                case Delivered():
                    connection.execute(delete(outbox).where(same))
                case Later(at, reason):
                    connection.execute(update(outbox).where(same).values(next_at=at, trouble=_trouble(reason)))
                case Dead(reason):
                    given_up = {"state": _DEAD, "next_at": now, "trouble": _trouble(reason)}
                    connection.execute(update(outbox).where(same).values(given_up))
            connection.execute(update(outbox).where(held).values(claimed_until=None))

    def page(self, state: BoxState | None, limit: int, before: int | None = None) -> list[Entry]:
        """Give at most `limit` letters, newest first, from below the number `before`; in any state where it is None."""
        wanted: list[ColumnElement[bool]] = [] if state is None else [outbox.c.state == state.value]
        wanted += [] if before is None else [outbox.c.number < before]
        statement = select(outbox).where(*wanted).order_by(outbox.c.number.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(statement)]

    def counts(self) -> dict[BoxState, int]:
        """Give how many letters are in each state."""
        statement = select(outbox.c.state, func.count()).group_by(outbox.c.state)
        with reading(self._engine) as connection:
            found = {BoxState(state): count for state, count in connection.execute(statement)}
        return {state: found.get(state, 0) for state in BoxState}

    def retry(self, id_: str, now: datetime) -> Entry | None:
        """Make a letter due at once, with all its attempts before it; None where there is none of this id."""
        anew = {"state": _PENDING, "since": now, "next_at": now, "attempts": 0}
        with writing(self._engine) as connection:
            connection.execute(update(outbox).where(outbox.c.id == id_).values(anew))
            row = connection.execute(select(outbox).where(outbox.c.id == id_)).first()
        return None if row is None else _entry(row)

    def tidy(self, destinations: Collection[str], now: datetime) -> None:
        """Keep the table within its bounds, and give up what is for none of these destinations."""
        nowhere = (outbox.c.state == _PENDING) & outbox.c.destination.not_in(list(destinations))
        with writing(self._engine) as connection:
            _give_up(connection, nowhere, "this destination is no longer in the configuration", now)
            for name in destinations:
                waiting = (outbox.c.state == _PENDING) & (outbox.c.destination == name)
                if (number := _beyond(connection, waiting, MOST_WAITING)) is not None:
                    _give_up(connection, waiting & (outbox.c.number <= number), "too many wait for it", now)
            gone = or_(outbox.c.next_at < now - DEAD_KEPT, outbox.c.number <= _oldest_dead(connection))
            connection.execute(delete(outbox).where(outbox.c.state == _DEAD, gone))


def _due(connection: Connection, destination: str, now: datetime, limit: int) -> Sequence[Row[Any]]:
    statement = (
        select(outbox)
        .where(outbox.c.state == _PENDING, outbox.c.destination == destination, outbox.c.next_at <= now)
        .where(or_(outbox.c.claimed_until.is_(None), outbox.c.claimed_until <= now))
        .order_by(outbox.c.next_at, outbox.c.number)
        .limit(limit)
    )
    return connection.execute(statement).all()


def _give_up(connection: Connection, which: ColumnElement[bool], reason: str, now: datetime) -> None:
    given_up = {"state": _DEAD, "next_at": now, "trouble": _trouble(reason)}
    connection.execute(update(outbox).where(which, outbox.c.claimed_until.is_(None)).values(given_up))


def _beyond(connection: Connection, which: ColumnElement[bool], most: int) -> int | None:
    """Give the number of the newest row that is one too many; None where there are no more than `most`."""
    statement = select(outbox.c.number).where(which).order_by(outbox.c.number.desc()).offset(most).limit(1)
    number: int | None = connection.execute(statement).scalar()
    return number


def _oldest_dead(connection: Connection) -> int:
    return _beyond(connection, outbox.c.state == _DEAD, MOST_DEAD) or 0


def _letter(row: Row[Any], until: datetime) -> Letter:
    return Letter(row.id, row.number, row.destination, json.loads(row.body), row.attempts + 1, row.since, until)


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        number=row.number,
        destination=row.destination,
        state=BoxState(row.state),
        since=row.since,
        next_at=row.next_at,
        attempts=row.attempts,
        trouble=None if row.trouble is None else json.loads(row.trouble),
        body=json.loads(row.body),
    )


def _trouble(reason: str) -> str:
    return json.dumps(reason[:LONGEST_TROUBLE])
