"""What a ledger in a database promises beyond the port: its statements, its files, and who shares it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text

from reconciler.errors import LedgerUnreachable, Moved
from reconciler.ports import Advance
from reconciler.shell.ledger import SqlLedger, open_ledger
from tests.contracts.databases import ON_SQLITE
from tests.contracts.ledgers import SHA, happened, record, status, url_of


def statements(engine: Engine) -> list[str]:
    """Collect the statements that the engine executes from now on."""
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    return seen


def open_ledger_without_waiting(folder: Path) -> Engine:
    """Give an engine onto an existing ledger whose write lock somebody else holds: migrations cannot run."""
    from reconciler.shell.ledger import engine as opening

    return opening._open_sqlite(opening._parse(url_of(folder)), 0.2)


class TestInADatabase:
    """What a database promises beyond the port."""

    def test_loading_again_reads_one_row_where_nothing_changed(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.record(ledger.load().base, Advance(SHA, [record("a")]))
        first = ledger.load()
        seen = statements(engine)
        ledger.record(base, Advance(SHA, status=status()))
        seen.clear()
        assert ledger.load() is first
        assert [each for each in seen if each.startswith("SELECT")] == [seen[-1]]
        assert "models" not in seen[-1]

    def test_what_one_wrote_itself_is_not_read_back(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        seen = statements(engine)
        ledger.record(base, Advance(SHA, [record("a")]))
        assert dict(ledger.load().records) == {"svc-alice-a": record("a")}
        assert not [each for each in seen if each.startswith("SELECT") and "models" in each]

    def test_users_that_are_known_are_not_written_again(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.record(ledger.load().base, Advance(SHA, users=frozenset({"alice"})))
        seen = statements(engine)
        ledger.record(base, Advance(SHA, users=frozenset({"alice"})))
        assert not [each for each in seen if "users" in each]

    def test_ten_thousand_models_are_no_burden(self, engine: Engine) -> None:
        many = [record(f"m{number}", number=number) for number in range(10_000)]
        began = time.monotonic()
        ledger = SqlLedger(engine)
        ledger.record(ledger.load().base, Advance(SHA, many, [happened(each.identity.suffix) for each in many]))
        assert len(SqlLedger(engine).load().records) == len(many)
        assert time.monotonic() - began < 30  # 3 s on two idle cores

    def test_a_failure_in_the_middle_of_a_pass_writes_nothing(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        with pytest.raises(TypeError, match="a set cannot be kept"):
            ledger.record(base, Advance(SHA, [record("a")], [happened(payload={"no JSON": {1}})]))
        assert ledger.load().base == base
        assert dict(SqlLedger(engine).load().records) == {}

    @ON_SQLITE
    def test_the_file_and_its_companions_are_their_owners_alone(self, engine: Engine, tmp_path: Path) -> None:
        SqlLedger(engine).nudge()
        files = list(tmp_path.glob("ledger.sqlite*"))
        assert {file.suffix for file in files} == {".sqlite", ".sqlite-shm", ".sqlite-wal", ".lock"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_a_file_that_others_may_read_is_taken_from_them(self, tmp_path: Path) -> None:
        file = tmp_path / "ledger.sqlite"
        file.touch(mode=0o644)
        file.chmod(0o644)
        open_ledger(url_of(tmp_path), 5).dispose()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    @ON_SQLITE
    def test_what_was_acknowledged_is_synced(self, engine: Engine) -> None:
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1

    @ON_SQLITE
    def test_a_reader_is_not_held_up_by_a_writer(self, engine: Engine, tmp_path: Path) -> None:
        SqlLedger(engine).nudge()
        with engine.connect() as busy:
            busy.exec_driver_sql("UPDATE nudges SET count = 99")
            assert SqlLedger(open_ledger_without_waiting(tmp_path)).nudges() == 1

    @ON_SQLITE
    def test_a_writer_waits_for_another_and_then_gives_up(self, engine: Engine, tmp_path: Path) -> None:
        impatient = SqlLedger(open_ledger(url_of(tmp_path), timeout_s=0.2))
        with engine.connect() as busy:
            busy.exec_driver_sql("UPDATE nudges SET count = 99")
            began = time.monotonic()
            with pytest.raises(LedgerUnreachable, match="locked"):
                impatient.nudge()
            assert 0.1 < time.monotonic() - began < 3
            busy.rollback()
        impatient.nudge()
        assert impatient.nudges() == 1

    def test_of_two_loops_on_one_base_one_writes(self, url: str) -> None:
        ledgers = [SqlLedger(open_ledger(url, 5)) for _ in range(4)]
        base = ledgers[0].load().base
        together = threading.Barrier(len(ledgers))

        def write(number: int) -> bool:
            together.wait()
            try:
                ledgers[number].record(base, Advance(f"{number:040x}", [record(f"m{number}")]))
            except Moved:
                return False
            return True

        with ThreadPoolExecutor(len(ledgers)) as pool:
            written = list(pool.map(write, range(len(ledgers))))
        assert written.count(True) == 1
        assert set(ledgers[0].load().records) == {f"svc-alice-m{written.index(True)}"}

    def test_nudges_from_many_sides_are_all_counted(self, engine: Engine) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: SqlLedger(engine).nudge(), range(40)))
        assert SqlLedger(engine).nudges() == 40

    def test_what_a_killed_process_had_recorded_is_there(self, url: str) -> None:
        program = (
            "import os, signal, sys\n"
            "from reconciler.ports import Advance\n"
            "from reconciler.shell.ledger import SqlLedger, open_ledger\n"
            "ledger = SqlLedger(open_ledger(sys.argv[1], 5))\n"
            "ledger.record(ledger.load().base, Advance('f' * 40))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program, url], check=False, timeout=60)
        assert ended.returncode == -9
        assert SqlLedger(open_ledger(url, 5)).load().revision == "f" * 40

    def test_a_forked_worker_does_not_use_its_parents_connections(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        ledger.nudge()
        connections: list[object] = []
        event.listen(engine, "connect", lambda dbapi, _record: connections.append(dbapi))
        child = os.fork()
        if child == 0:
            try:
                ledger.nudge()
                os._exit(0 if connections else 3)
            except BaseException:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ledger.nudges() == 2
        assert not connections
