"""A ledger's file that is deleted, replaced or broken under those who use it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from reconciler.errors import LedgerLost, LedgerUnreachable
from reconciler.ports import Advance
from reconciler.shell.ledger import SqlLedger, open_ledger
from reconciler.shell.ledger.file import LedgerFile

SHA = "c" * 40
PAGE = 4096


@contextmanager
def opened(folder: Path, on_lost: Callable[[], None] = lambda: None) -> Iterator[Engine]:
    engine = open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}", 5, on_lost)
    try:
        yield engine
    finally:
        engine.dispose()


def overwrite(ledger: Path, start: int = PAGE) -> None:
    """Put noise in the place of everything from `start` on, as a failing disk does."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with ledger.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(ledger.stat().st_size - start))


def revision_seen_from_elsewhere(ledger: Path) -> str:
    """Have a process of its own open the file, read the loop's revision, and close the file."""
    look = (
        "import sqlite3, sys; ledger = sqlite3.connect(sys.argv[1]); "
        "print(*ledger.execute('SELECT revision FROM loop').fetchone()); ledger.close()"
    )
    done = subprocess.run([sys.executable, "-c", look, ledger], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def broken_ones(folder: Path) -> list[Path]:
    return [file for file in folder.glob("ledger.sqlite.broken-*") if not file.name.endswith(("-wal", "-shm"))]


def test_a_deleted_ledger_is_noticed_at_the_next_use_and_told_once(tmp_path: Path) -> None:
    told: list[bool] = []
    with opened(tmp_path, lambda: told.append(True)) as engine:
        ledger = SqlLedger(engine)
        ledger.nudge()
        for file in tmp_path.glob("ledger.sqlite*"):
            file.unlink()
        for _ in range(2):
            with pytest.raises(LedgerLost, match="not the one that was opened"):
                ledger.nudge()
        with pytest.raises(LedgerLost):
            ledger.load()
    assert told == [True]


def test_who_has_lost_the_ledger_makes_none_and_opens_none(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        ledger = SqlLedger(engine)
        ledger.nudge()
        for file in tmp_path.glob("ledger.sqlite*"):
            file.unlink()
        for _ in range(3):
            with pytest.raises(LedgerLost):
                ledger.nudge()
        assert not (tmp_path / "ledger.sqlite").exists()
        with opened(tmp_path) as anew:
            SqlLedger(anew).nudge()
            for _ in range(3):
                with pytest.raises(LedgerLost):
                    ledger.nudge()
            mine = f"/proc/{os.getpid()}/fd"
            there = [Path(mine, each).readlink() for each in os.listdir(mine) if Path(mine, each).exists()]
            assert there.count(tmp_path / "ledger.sqlite") == 1


def test_a_process_that_opens_it_twice_keeps_what_is_beside_it_from_others_who_close_it(tmp_path: Path) -> None:
    """Closing a file gives up the locks that a process has on it: others would remove the log that is written here."""
    path = tmp_path / "ledger.sqlite"
    with opened(tmp_path) as engine, opened(tmp_path) as again:
        ledger = SqlLedger(engine)
        assert revision_seen_from_elsewhere(path) == "None"
        ledger.record(ledger.load().base, Advance(SHA))
        assert revision_seen_from_elsewhere(path) == SHA, "what was committed here is not seen there"
        assert SqlLedger(again).load().revision == SHA


def test_whoever_opens_after_a_loss_finds_a_new_ledger(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        ledger = SqlLedger(engine)
        ledger.record(ledger.load().base, Advance(SHA))
        (tmp_path / "ledger.sqlite").unlink()
        with opened(tmp_path) as anew:
            assert SqlLedger(anew).load().revision is None
            with pytest.raises(LedgerLost):  # never both: what it wrote, nobody would see
                ledger.nudge()
            SqlLedger(anew).nudge()


@pytest.mark.parametrize("start", [0, PAGE], ids=["no database any more", "malformed"])
def test_a_ledger_that_breaks_in_use_is_set_aside_whole(tmp_path: Path, start: int) -> None:
    told: list[bool] = []
    with opened(tmp_path, lambda: told.append(True)) as engine:
        SqlLedger(engine).nudge()
        overwrite(tmp_path / "ledger.sqlite", start)
        size = (tmp_path / "ledger.sqlite").stat().st_size
        with opened_without_looking(tmp_path) as other, pytest.raises(LedgerLost):
            SqlLedger(other).nudges()
        with pytest.raises(LedgerLost):
            SqlLedger(engine).nudges()
    assert told == [True]
    (aside,) = broken_ones(tmp_path)
    assert aside.stat().st_size == size
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    with opened(tmp_path) as anew:
        assert SqlLedger(anew).nudges() == 0


@pytest.mark.parametrize("start", [0, PAGE], ids=["no database any more", "malformed"])
def test_a_ledger_that_is_found_broken_is_set_aside_and_made_anew(tmp_path: Path, start: int) -> None:
    told: list[bool] = []
    with opened(tmp_path) as engine:
        SqlLedger(engine).nudge()
    overwrite(tmp_path / "ledger.sqlite", start)
    with opened(tmp_path, lambda: told.append(True)) as anew:
        assert SqlLedger(anew).nudges() == 0
    assert not told  # nobody has used the broken one
    assert len(broken_ones(tmp_path)) == 1


def test_many_that_find_it_broken_at_once_set_it_aside_once(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        SqlLedger(engine).nudge()
    overwrite(tmp_path / "ledger.sqlite")
    together = threading.Barrier(6)

    def use(_: int) -> None:
        together.wait()
        for _ in range(10):
            try:
                with opened(tmp_path) as engine:
                    SqlLedger(engine).nudge()
                    return
            except LedgerLost:
                continue
        raise AssertionError("it was never there")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    assert len(broken_ones(tmp_path)) == 1
    with opened(tmp_path) as anew:
        assert SqlLedger(anew).nudges() == 6


def test_nobody_sets_a_broken_one_aside_while_another_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path):
        pass
    overwrite(tmp_path / "ledger.sqlite")
    other, corrupt = LedgerFile(tmp_path / "ledger.sqlite"), sqlite3.DatabaseError("malformed")
    corrupt.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    open_it, turns = os.open, []

    def open_as_the_other_comes(path: Path, flags: int, mode: int = 0o777) -> int:
        try:
            return open_it(path, flags, mode)
        except FileExistsError:
            turns.append(path)
            with pytest.raises(LedgerUnreachable, match="being opened or set aside by others"):
                other.explain(corrupt)
            raise

    monkeypatch.setattr(os, "open", open_as_the_other_comes)
    monkeypatch.setattr("reconciler.shell.ledger.file.LONGEST_TURN_S", 0.05)
    with opened(tmp_path) as anew:
        assert SqlLedger(anew).nudges() == 0
    assert turns == [tmp_path / "ledger.sqlite"]
    assert len(broken_ones(tmp_path)) == 1


def test_a_ledger_that_is_only_busy_is_neither_lost_nor_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as busy:
        engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 0.1)
        busy.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerUnreachable) as refused:
            SqlLedger(engine).nudge()
        engine.dispose()
    assert not isinstance(refused.value, LedgerLost)
    assert not broken_ones(tmp_path)


@contextmanager
def opened_without_looking(folder: Path) -> Iterator[Engine]:
    """Give an engine onto the file as it is, as another process has it that opened it before it broke."""
    from reconciler.shell.ledger import engine as opening

    engine = opening._create(opening._parse(f"sqlite:///{folder / 'ledger.sqlite'}"))
    opening._FILES[engine] = LedgerFile(folder / "ledger.sqlite")
    try:
        yield engine
    finally:
        engine.dispose()
