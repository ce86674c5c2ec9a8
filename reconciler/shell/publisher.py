"""Joins the names that the loop knows with the replicas that Serve knows, and puts the table up for the fronts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from reconciler.core.routes import Name, Replica, RoutingTable, routing_table
from reconciler.errors import NotLeader, Unreachable

log = logging.getLogger(__name__)


class Publishing(Protocol):
    """The half of `ports.Board` that is needed here; Ray's ingress has a board of its own (`kv_board`)."""

    def publish(self, table: RoutingTable) -> None:
        """Put up a table. Raises Unreachable, NotLeader."""
        ...


class Publisher:
    """`ports.Front` over a board. The loop shows names, a watch on Serve shows replicas, each from its own thread.

    Nothing is put up before all is known: after a restart the last table stays true until then. A reconciler that does
    not lead puts nothing up; one that leads again begins with the names of its next pass, and puts up its table in any
    case: on the board is what another put there.
    """

    def __init__(self, board: Publishing, token: Callable[[], int | None] = lambda: 0) -> None:
        """Publish on `board`, as long as `token` gives the token of a lease."""
        self._board = board
        self._token = token
        self._secret: str | None = None
        self._lock = threading.Lock()
        self._names: tuple[int | None, tuple[Name, ...]] | None = None  # under which token the loop showed them
        self._replicas: tuple[Replica, ...] | None = None
        self._last: tuple[int, RoutingTable] | None = None

    def know(self, secret: str) -> None:
        """Give every table this secret, which replicas know fronts by."""
        with self._lock:
            self._secret = secret

    def show(self, names: Sequence[Name]) -> None:
        """Keep `ports.Front.show`; also tries again what could not be put up before. Raises Unreachable, NotLeader."""
        with self._lock:
            self._names = (self._token(), tuple(names))
            self._publish()

    def take_requests(self, replicas: Sequence[Replica]) -> None:
        """Know that these replicas take requests from now on, and no others. The next `show` repeats what fails."""
        with self._lock:
            self._replicas = tuple(replicas)
            try:
                self._publish()
            except (Unreachable, NotLeader) as error:
                log.warning("the fronts do not know of a change yet: %s", error)

    def _publish(self) -> None:
        if self._secret is None or self._names is None or self._replicas is None:
            return
        token, names = self._names
        if token is None or token != self._token():
            return
        table = routing_table(self._secret, names, self._replicas)
        if (token, table) != self._last:
            self._board.publish(table)
            self._last = (token, table)
            log.info(
                "routes: %d names, %d replicas", len(table.routes), sum(len(route.targets) for route in table.routes)
            )
