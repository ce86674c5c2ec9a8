"""The driver: it carries the routing table from the board to HAProxy.

Level-triggered: each comparison is of what HAProxy holds with what it should hold, so that a restart of either side, or
somebody at the admin socket, is healed by the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from reconciler.core.routes import RoutingTable
from reconciler.errors import LedgerUnreachable, SettingsError
from reconciler.front import metrics
from reconciler.front import state as states
from reconciler.front.admin import Admin, Conversation, FrontUnreachable, Process, Refused
from reconciler.front.config import DESK, FRONTEND, server_options
from reconciler.front.desk import DeskView
from reconciler.front.slots import assign, backend
from reconciler.front.state import Baseline, FrontState
from reconciler.front.sync import MODELS_MAP, DeleteServer, steps, wanted
from reconciler.settings import ServingSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often the router asks which HAProxy runs, and whether what goes has gone."""

COMPARE_EVERY_S = 15.0
"""How often it compares everything though nothing seems to have changed."""


class Readable(Protocol):
    """The half of `ports.Board` that is needed here."""

    def read(self, known: int) -> tuple[int, RoutingTable] | None:
        """Keep `ports.Board.read`."""
        ...


class Driver:
    """One front's driver. One thread calls `tick`; any may call `view`."""

    def __init__(
        self,
        folder: Path,
        serving: ServingSettings,
        board: Readable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the state that the front's `folder` holds."""
        self._folder = folder
        self._size = serving.haproxy.max_models
        self._options = server_options(serving)
        self._board = board
        self._admin = Admin(folder)
        self._clock = clock
        self._known = 0
        self._process: Process | None = None
        self._compare_at = self._look_at = 0.0
        self._said: dict[str, str] = {}
        self._saved = states.load(folder)
        self._state = self._saved and replace(self._saved, table=states.usable(self._saved.table)[0])
        self._view = DeskView(self._state.table if self._state else None, trouble="the board was not read yet")

    def view(self) -> DeskView:
        """Give what is known now, for the desk."""
        return self._view

    def figures(self) -> bytes:
        """Give the figures for Prometheus. It asks HAProxy, on a connection of its own."""
        state, rows, process = self._state or _NOTHING, [], ""
        with suppress(FrontUnreachable), self._admin.talk() as talk:
            process, rows = str(talk.process()), talk.stats()
        routes = {
            backend(state.slots[route.model_key]): route
            for route in state.table.routes
            if route.model_key in state.slots
        }
        baselines = {
            backend(state.slots[key]): baseline.counters
            for key, baseline in state.baselines.items()
            if key in state.slots and baseline.process == process
        }
        return metrics.render(rows, routes, baselines, self._view, frontend=FRONTEND, desk=DESK)

    def tick(self) -> None:
        """Do one round: a few times a second. What goes wrong is logged once, and tried again by the next round.

        Raises SettingsError, which no further round would mend.
        """
        try:
            self._read_board()
            self._tend_haproxy()
        except SettingsError:
            raise
        except Exception as error:  # a round never ends it: the next one may find the world in order
            self._look_at = self._compare_at = self._clock() + LOOK_EVERY_S
            if self._is_news("round", repr(error)):
                log.exception("the round failed")
        else:
            self._is_news("round", "")

    def _read_board(self) -> None:
        try:
            read = self._board.read(self._known)
        except LedgerUnreachable as error:
            if self._is_news("board", str(error)):
                log.warning("no news of routes, the last ones stay: %s", error)
            self._view = replace(self._view, trouble=str(error))
            return
        if self._is_news("board", ""):
            log.info("the board can be read")
        self._view = replace(self._view, read_at=time.monotonic(), trouble=None)
        if read is None:
            return
        self._known, table = read
        table, wrong = states.usable(table)
        if self._is_news("table", "; ".join(wrong)) and wrong:
            log.error("left out of the routes: %s", "; ".join(wrong))
        if self._state is None or table != self._state.table:
            self._state = replace(self._state or _NOTHING, table=table)
            self._compare_at = 0.0

    def _tend_haproxy(self) -> None:
        state, now = self._state, self._clock()
        if state is None or now < min(self._look_at, self._compare_at):
            return
        self._look_at = now + LOOK_EVERY_S
        try:
            with self._admin.talk() as talk:
                process = talk.process()
                if process != self._process or now >= self._compare_at:
                    self._compare_at = now + self._compare(talk, process, state)
        except FrontUnreachable as error:
            if self._is_news("haproxy", str(error)):
                log.warning("waiting for HAProxy: %s", error)
            self._process, self._compare_at = None, self._look_at
            slots = assign(state.slots, state.table, frozenset(), self._size)
            self._keep(replace(state, slots=slots))  # it will start from this
            return
        except Refused as error:
            if self._is_news("refused", str(error)):
                log.warning("HAProxy refuses the routes, and is told again: %s", error)
            self._compare_at = self._look_at
            return
        self._is_news("haproxy", "")
        if process != self._process:
            log.info("HAProxy (pid %d) has the routes", process.pid)
            self._process = process

    def _compare(self, talk: Conversation, process: Process, state: FrontState) -> float:
        """Make HAProxy hold what it should. Gives the seconds until it is to be compared again."""
        held = talk.held()
        slots = assign(state.slots, state.table, held.occupied(), self._size)
        moved = {key for key, slot in slots.items() if state.slots.get(key) != slot}
        counters = (
            {row["pxname"]: metrics.counters(row) for row in talk.stats() if row["svname"] == "BACKEND"}
            if moved
            else {}
        )
        baselines = {key: baseline for key, baseline in state.baselines.items() if key in slots}
        baselines |= {key: Baseline(str(process), counters.get(backend(slots[key]), {})) for key in moved}
        self._keep(replace(state, slots=slots, baselines=baselines))
        want = wanted(state.table, slots)
        todo = list(steps(held, want))
        refused = talk.take(todo, self._options)
        if self._is_news("refused", "; ".join(refused)) and refused:
            log.warning("HAProxy refuses replicas, and is told again: %s", "; ".join(refused))
        if any(not isinstance(step, DeleteServer) for step in todo):
            log.info("HAProxy was told: %d names, %d replicas", len(want.maps[MODELS_MAP]), len(want.servers))
        going = held.servers.keys() - want.servers.keys()
        return LOOK_EVERY_S if refused or going else COMPARE_EVERY_S

    def _keep(self, state: FrontState) -> None:
        """Write the state down where it is new, then show it. Raises OSError."""
        if state != self._saved:
            states.save(self._folder, state)
            self._saved = state
        self._state = state
        full = [route for route in state.table.routes if route.targets and route.model_key not in state.slots]
        self._view = replace(self._view, table=state.table, full=frozenset(route.model_key for route in full))
        if self._is_news("slots", ", ".join(route.model_id for route in full)) and full:
            log.error(
                "serving.haproxy.max_models is %d: no room for %d models that could answer, %s first",
                self._size,
                len(full),
                full[0].model_id,
            )

    def _is_news(self, topic: str, words: str) -> bool:
        """Say whether something else is to be said on the topic than the last time; nothing was said before."""
        said, self._said[topic] = self._said.get(topic, ""), words
        return said != words


_NOTHING = FrontState(RoutingTable("", ()))
