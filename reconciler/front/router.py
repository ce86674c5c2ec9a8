"""The router's process: the driver's rounds, the desk and the figures, until somebody says stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from reconciler.core.routes import RoutingTable
from reconciler.errors import LedgerLost, SettingsError
from reconciler.front import files, listening
from reconciler.front.desk import Desk
from reconciler.front.driver import Driver, Readable
from reconciler.front.metrics import MetricsApp
from reconciler.front.relay import Relay
from reconciler.settings import ServingSettings, Settings
from reconciler.shell.ledger import SqlBoard, open_ledger

log = logging.getLogger(__name__)

ROUND_EVERY_S = 0.1


class LedgerBoard:
    """The board in the ledger's database, which may be away also when the router starts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._board: SqlBoard | None = None

    def read(self, known: int) -> tuple[int, RoutingTable] | None:
        """Keep `ports.Board.read`. Raises SettingsError where the ledger's URL cannot be used."""
        if self._board is None:
            self._board = SqlBoard(open_ledger(self._settings.ledger_url, self._settings.ledger.timeout_s))
        try:
            return self._board.read(known)
        except LedgerLost:
            self._board = None  # the next round opens the one that is there then
            raise


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Gives the exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    for noisy in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return run(settings, LedgerBoard(settings), stop)


def run(settings: Settings, board: Readable, stop: threading.Event) -> int:
    """Run the router's parts until `stop` is set. Gives the exit status: 0, or 1 where one of them failed for good."""
    folder = files.make_folder(settings.home)
    driver = Driver(folder, settings.serving, board)
    ending = threading.Event()
    parts = [
        _Part("rounds", lambda: _rounds(driver, ending)),
        _Part("servers", lambda: asyncio.run(_servers(folder, settings.serving, driver, ending))),
    ]
    log.info("the router is up")
    status = 0
    while not stop.wait(ROUND_EVERY_S):
        if not all(part.is_alive() for part in parts):
            log.error("a part of the router ended by itself; leaving, to be started again")
            status = 1
            break
    ending.set()
    for part in parts:
        part.join(0.4)  # whatever hangs longer ends with the process
    log.info("stopped")
    return status


class _Part(threading.Thread):
    """A thread whose end is never silent."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._main = run
        self.start()

    def run(self) -> None:
        try:
            self._main()
        except SettingsError as error:
            log.critical("%s", error)
        except Exception:
            log.exception("the router's %s failed", self.name)


def _rounds(driver: Driver, ending: threading.Event) -> None:
    """Drive, on a thread of its own: a database that is away may hold a round for seconds."""
    while not ending.is_set():
        driver.tick()
        ending.wait(ROUND_EVERY_S)


async def _servers(folder: Path, serving: ServingSettings, driver: Driver, ending: threading.Event) -> None:
    relay = Relay(folder, serving.idle_timeout_s)
    desk = Desk(driver.view, relay, serving.max_body_bytes)
    stop = asyncio.Event()
    servers: list[Coroutine[Any, Any, None]] = [
        listening.serve(desk, listening.unix_socket(folder, files.DESK_SOCKET), stop)
    ]
    if listener := _metrics_socket(serving):
        servers.append(listening.serve(MetricsApp(driver.figures), listener, stop))
    running = [asyncio.ensure_future(server) for server in servers]
    try:
        while not ending.is_set() and not any(server.done() for server in running):  # noqa: ASYNC110  a thread's event
            await asyncio.sleep(ROUND_EVERY_S)
    finally:
        stop.set()
        await asyncio.gather(*running)
        await relay.close()


def _metrics_socket(serving: ServingSettings) -> socket.socket | None:
    host, port = serving.haproxy.metrics_host, serving.haproxy.metrics_port
    if port is None:
        return None
    try:
        return listening.tcp_socket(host, port)
    except OSError as error:
        log.warning(
            "no figures: serving.haproxy.metrics_port: %s:%d is not to be had (%s); another port or null would do",
            host,
            port,
            error.strerror,
        )
        return None
