"""The lease in the ledger (`ports.Leases`), and the check that a write is made under it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.sql.elements import ColumnElement

from reconciler.core.lease import Lease
from reconciler.errors import NotLeader
from reconciler.shell.ledger.engine import reading, writing
from reconciler.shell.ledger.schema import ONLY, lease

_READ = select(lease.c.token, lease.c.holder, lease.c.renewals, lease.c.patience_ms).where(lease.c.id == ONLY)
_CHANGE = update(lease).where(lease.c.id == ONLY)


class SqlLeases:
    """`ports.Leases` over the ledger's database."""

    def __init__(self, engine: Engine) -> None:
        """Use the ledger at `engine` (`open_ledger`)."""
        self._engine = engine

    def read(self) -> Lease:
        """Keep `ports.Leases.read`."""
        with reading(self._engine) as connection:
            return _lease(connection.execute(_READ).one())

    def take(self, seen: Lease, holder: str, patience_s: float) -> Lease | None:
        """Keep `ports.Leases.take`."""
        as_seen = _held(seen) & (lease.c.renewals == seen.renewals)
        taken = Lease(seen.token + 1, holder, 0, math.ceil(patience_s * 1000) / 1000)
        values = {
            "token": taken.token,
            "holder": holder,
            "renewals": 0,
            "patience_ms": math.ceil(patience_s * 1000),
        }
        with writing(self._engine) as connection:
            changed = connection.execute(_CHANGE.where(as_seen).values(values)).rowcount
        return taken if changed else None

    def renew(self, held: Lease) -> bool:
        """Keep `ports.Leases.renew`."""
        return self._change(held, renewals=lease.c.renewals + 1)

    def release(self, held: Lease) -> bool:
        """Keep `ports.Leases.release`."""
        return self._change(held, holder=None, renewals=lease.c.renewals + 1)

    def _change(self, held: Lease, **values: object) -> bool:
        with writing(self._engine) as connection:
            return connection.execute(_CHANGE.where(_held(held)).values(values)).rowcount > 0


def guard(connection: Connection, fence: Callable[[], Lease] | None) -> None:
    """Refuse to commit what is not written under the lease that holds at this moment. Raises NotLeader.

    To be called at a transaction's end: in PostgreSQL whoever takes the lease waits from here until the commit, and so
    does a renewal; in SQLite there is one writer anyway.
    """
    if fence is None:
        return
    mine = fence()
    found = _lease(connection.execute(_READ.with_for_update(read=True)).one())
    if (found.token, found.holder) != (mine.token, mine.holder):
        raise NotLeader(f"the lease has gone from token {mine.token} to {found.token}: another reconciler works")


def _held(held: Lease) -> ColumnElement[bool]:
    # The token alone would do while a ledger lives; after one was lost its successor counts from the beginning.
    return (lease.c.token == held.token) & lease.c.holder.is_not_distinct_from(held.holder)


def _lease(row: Row[Any, Any, Any, Any]) -> Lease:
    return Lease(row.token, row.holder, row.renewals, row.patience_ms / 1000)
