"""An SQLite ledger's file in use: whether it is still the one that was opened, and what becomes of a broken one.

A process that has a deleted file open goes on reading and writing it, and nobody else sees what it writes: so the file
is compared at each use. A broken one is set aside, never repaired: all in it but tokens and past events is rebuilt from
the repository and from Serve, and what can still be read of it is for people to look at.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from reconciler.errors import LedgerLost, LedgerUnreachable
from reconciler.shell import file_lock

log = logging.getLogger(__name__)

BESIDE = ("-wal", "-shm")
"""What SQLite keeps beside the file."""

LONGEST_TURN_S = 10.0
"""How long another process may take to open the file, or to look through a broken one."""

_OWNER_ONLY = 0o600
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MOVED = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
"""What SQLite may say of a file that another process sets aside under it (and of one that has other troubles)."""
_PRIMARY = 0xFF
"""The bits of an extended result code that hold the primary one."""


class LedgerFile:
    """The file at `path`, as it is now. `on_lost` is called once, when it is seen to be another one, or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_lost: Callable[[], None] = lambda: None
        self._identity = _identity(path)
        self._lost = False

    def make(self) -> None:
        """Make the file, or take from others what they may do with it; SQLite gives what is beside it the same mode.

        One that exists is never opened here: a process that closes a file gives up all its locks on it, also those that
        SQLite has for a connection opened before. Another process would take itself for the last one then, and remove
        what is beside the file, under the connections of this one. Raises LedgerUnreachable.
        """
        with self.alone():  # between two of these steps another process must not set the file aside
            try:
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY))
                if stat.S_IMODE(self.path.stat().st_mode) != _OWNER_ONLY:
                    self.path.chmod(_OWNER_ONLY)
            except OSError as error:
                raise LedgerUnreachable(f"the ledger {self.path} cannot be opened: {error.strerror}") from None
            self._identity = _identity(self.path)

    def check(self) -> None:
        """Raise LedgerLost where the file at the path is not the one that was opened."""
        # What was lost stays lost: its successor may have been given the same number, once nobody had it open any more.
        if self._lost or _identity(self.path) != self._identity:
            raise self._is_lost("it was deleted or replaced while it was in use")

    def explain(self, error: BaseException | None) -> LedgerLost | None:
        """Say whether a database's error means that the ledger is lost. A broken file is set aside first.

        Raises LedgerUnreachable where it cannot be.
        """
        if not isinstance(error, sqlite3.Error):
            return None
        if isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such table"):
            return self._is_lost("its tables are gone")
        said = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        if said not in _BROKEN | _MOVED:
            return None
        try:
            aside = self._set_aside(said)
        except OSError as refused:
            why = refused.strerror or type(refused).__name__
            raise LedgerUnreachable(f"the ledger {self.path} is broken, and cannot be set aside: {why}") from None
        if aside is not None:
            log.critical(
                "the ledger %s is broken (%s). It was set aside as %s; a new one is made from the repository and from "
                "Serve. Users' tokens and past events were in the broken one alone",
                *(self.path, error, aside.name),
            )
        return self._is_lost("it was broken") if _identity(self.path) != self._identity else None

    def _is_lost(self, why: str) -> LedgerLost:
        if not self._lost:
            self._lost = True
            self.on_lost()
        return LedgerLost(f"the ledger {self.path} is not the one that was opened: {why}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from opening the file, and from setting it aside. Raises LedgerUnreachable.

        A new file must not be opened while what stood beside the broken one is there still, nor be set aside itself by
        whoever has seen the broken one.
        """
        with ExitStack() as held:
            try:
                held.enter_context(file_lock.alone(self.path.with_name(f"{self.path.name}.lock"), LONGEST_TURN_S))
            except TimeoutError:
                raise LedgerUnreachable(f"the ledger {self.path} is being opened or set aside by others") from None
            except OSError as refused:
                why = refused.strerror or type(refused).__name__
                raise LedgerUnreachable(f"the ledger {self.path} cannot be locked: {why}") from None
            yield

    def _set_aside(self, said: int) -> Path | None:
        """Rename the file where it is broken indeed. None where it is not, or where another process was faster."""
        with self.alone():
            if _identity(self.path) != self._identity or said not in _BROKEN or not is_broken(self.path):
                return None
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            aside = self.path.with_name(f"{self.path.name}.broken-{stamp}")
            # The file first: whoever has it open sees at his next use that it is gone.
            self.path.rename(aside)
            for ending in BESIDE:
                with suppress(FileNotFoundError):  # the last to close a file removes what is beside it
                    self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
            return aside


def is_broken(path: Path) -> bool:
    """Say whether SQLite finds the file at `path` damaged when it reads all of it."""
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.Error as error:
        return (getattr(error, "sqlite_errorcode", 0) & _PRIMARY) in _BROKEN


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
