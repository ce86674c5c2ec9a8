"""Joins the names that the loop knows with the replicas that Serve knows, and puts the table up for the fronts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from reconciler.core.routes import Name, Replica, RoutingTable, routing_table
from reconciler.errors import Unreachable

log = logging.getLogger(__name__)


class Publishing(Protocol):
    """The half of `ports.Board` that is needed here; Ray's ingress has a board of its own (`kv_board`)."""

    def publish(self, table: RoutingTable) -> None:
        """Put up a table. Raises Unreachable."""
        ...


class Publisher:
    """`ports.Front` over a board. The loop shows names, a watch on Serve shows replicas, each from its own thread.

    Nothing is put up before all is known: after a restart the last table stays true until then.
    """

    def __init__(self, board: Publishing) -> None:
        """Publish on `board`."""
        self._board = board
        self._secret: str | None = None
        self._lock = threading.Lock()
        self._names: tuple[Name, ...] | None = None
        self._replicas: tuple[Replica, ...] | None = None
        self._last: RoutingTable | None = None

    def know(self, secret: str) -> None:
        """Give every table this secret, which replicas know fronts by."""
        with self._lock:
            self._secret = secret

    def show(self, names: Sequence[Name]) -> None:
        """Keep `ports.Front.show`; also tries again what could not be put up before. Raises Unreachable."""
        with self._lock:
            self._names = tuple(names)
            self._publish()

    def take_requests(self, replicas: Sequence[Replica]) -> None:
        """Know that these replicas take requests from now on, and no others. The next `show` repeats what fails."""
        with self._lock:
            self._replicas = tuple(replicas)
            try:
                self._publish()
            except Unreachable as error:
                log.warning("the fronts do not know of a change yet: %s", error)

    def _publish(self) -> None:
        if self._secret is None or self._names is None or self._replicas is None:
            return
        table = routing_table(self._secret, self._names, self._replicas)
        if table != self._last:
            self._board.publish(table)
            self._last = table
            log.info(
                "routes: %d names, %d replicas", len(table.routes), sum(len(route.targets) for route in table.routes)
            )
