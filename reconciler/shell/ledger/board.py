"""The board on which the routing table hangs (`ports.Board`): one row of the ledger, and so wherever the ledger is."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine, delete, select

from reconciler.core.lease import Lease
from reconciler.core.routes import RoutingTable
from reconciler.shell.ledger.engine import reading, upsert, writing
from reconciler.shell.ledger.lease import guard
from reconciler.shell.ledger.schema import ONLY, routes

_NUMBER = select(routes.c.number).where(routes.c.id == ONLY)
_DOCUMENT = select(routes.c.number, routes.c.document).where(routes.c.id == ONLY)


class SqlBoard:
    """`ports.Board` over the ledger's database. Any number of processes may read; threads may share it."""

    def __init__(self, engine: Engine, fence: Callable[[], Lease] | None = None) -> None:
        """Use the ledger at `engine` (`open_ledger`). Who publishes does it under the lease that `fence` gives."""
        self._engine = engine
        self._fence = fence

    def publish(self, table: RoutingTable) -> None:
        """Keep `ports.Board.publish`."""
        document = table.to_json()
        with writing(self._engine) as connection:
            last = connection.execute(_NUMBER).scalar() or 0
            # Microseconds since the epoch, so that numbers go on rising after `clear` has forgotten the last one.
            number = max(last + 1, time.time_ns() // 1000)
            upsert(connection, routes, [{"id": ONLY, "number": number, "document": document}])
            guard(connection, self._fence)

    def read(self, known: int) -> tuple[int, RoutingTable] | None:
        """Keep `ports.Board.read`. Where nothing is new it reads one number."""
        with reading(self._engine) as connection:
            if connection.execute(_NUMBER).scalar() in {known, None}:
                return None
            number, document = connection.execute(_DOCUMENT).one()
        return number, RoutingTable.from_json(document)

    def clear(self) -> None:
        """Keep `ports.Board.clear`."""
        with writing(self._engine) as connection:
            connection.execute(delete(routes))
