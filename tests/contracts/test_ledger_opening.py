"""Opening a ledger: versions of its tables, URLs, and files that are no ledgers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from reconciler.errors import LedgerUnreachable, SettingsError
from reconciler.ports import Advance
from reconciler.shell.ledger import Accounts, SqlLeases, SqlLedger, open_ledger, schema
from tests.contracts.ledgers import SHA, record, url_of
from tests.postgres import Postgres

FIRST_VERSION = Path(__file__).parent / "ledger_v1"
"""A ledger as version 1 made it, with a little in it. Never to be changed."""


def tables(of: Engine) -> dict[str, Any]:
    """Give all that a database says of its tables."""
    looked = inspect(of)
    return {
        table: (
            [(each["name"], repr(each["type"]), each["nullable"]) for each in looked.get_columns(table)],
            looked.get_pk_constraint(table)["constrained_columns"],
            sorted((each["name"], each["column_names"], each["unique"]) for each in looked.get_indexes(table)),
            [(each["constrained_columns"], each["referred_table"]) for each in looked.get_foreign_keys(table)],
        )
        for table in looked.get_table_names()
    }


class TestOpening:
    """Versions of the tables, and URLs."""

    def test_opening_again_changes_nothing(self, engine: Engine, url: str) -> None:
        ledger = SqlLedger(engine)
        ledger.record(ledger.load().base, Advance(SHA, [record()]))
        assert SqlLedger(open_ledger(url, 5)).load() == ledger.load()

    def test_processes_that_open_a_new_ledger_together_make_one(self, url: str) -> None:
        together = threading.Barrier(8)

        def begin(_: int) -> int:
            together.wait()
            ledger = SqlLedger(open_ledger(url, 10))
            ledger.nudge()
            return ledger.load().base

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(begin, range(8))) == [0] * 8
        assert SqlLedger(open_ledger(url, 5)).nudges() == 8

    def test_migrations_run_once_in_order_from_where_the_ledger_stands(self, engine: Engine) -> None:
        ran: list[int] = []
        later = (lambda _: ran.append(1), lambda _: ran.append(2), lambda _: ran.append(3))
        for known in (2, 3, 3):
            with engine.begin() as connection:
                schema.migrate(connection, schema.MIGRATIONS + later[:known])
        assert ran == [1, 2, 3]

    def test_a_ledger_of_the_first_version_ends_at_the_same_tables_as_a_new_one(
        self, engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        if engine.dialect.name == "sqlite":
            old_url = f"sqlite:///{tmp_path / 'old.sqlite'}"
        else:
            server: Postgres = request.getfixturevalue("postgres")
            old_url = server.new_ledger()
        old = create_engine(old_url)
        with old.begin() as connection:
            for statement in (FIRST_VERSION / f"{old.dialect.name}.sql").read_text().split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
        old.dispose()
        opened = open_ledger(old_url, timeout_s=5)
        assert tables(opened) == tables(engine)
        state = SqlLedger(opened).load()
        assert (state.base, state.revision) == (41, SHA)
        assert SqlLedger(opened).nudges() == 7
        assert Accounts(opened).exists("alice")
        assert SqlLeases(opened).read() == SqlLeases(engine).read()
        opened.dispose()

    def test_a_migration_that_fails_leaves_the_ledger_as_it_was(self, engine: Engine) -> None:
        def fail(connection: Connection) -> None:
            connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError), engine.begin() as connection:
            schema.migrate(connection, (*schema.MIGRATIONS, fail))
        assert not inspect(engine).has_table("half")
        with engine.begin() as connection:
            schema.migrate(connection)

    def test_a_ledger_of_a_newer_argus_is_refused(self, engine: Engine, url: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE schema_version SET version = 99"))
        with pytest.raises(SettingsError, match=r"schema version 99 .* up to \d+"):
            open_ledger(url, 5)

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "ledger",
            "mysql://u:hunter2@h/d",
            "nosuch://u:hunter2@h/d",
            "sqlite://",
            "sqlite:///:memory:",
            "://u:hunter2@",
        ],
    )
    def test_an_url_that_cannot_be_used_names_the_key_and_no_password(self, wrong: str) -> None:
        with pytest.raises(SettingsError, match=r"ledger\.url") as caught:
            open_ledger(wrong, 1)
        assert "hunter2" not in str(caught.value)

    def test_a_folder_that_is_not_there_is_said_plainly(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerUnreachable, match="No such file"):
            open_ledger(url_of(tmp_path / "absent"), 1)

    def test_a_file_that_is_no_database_is_set_aside_with_all_that_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 100)
        assert SqlLedger(open_ledger(url_of(tmp_path), 1)).nudges() == 0
        (aside,) = tmp_path.glob("ledger.sqlite.broken-*")
        assert aside.read_bytes() == b"no database at all" * 100

    def test_no_error_carries_a_statement_or_its_values(self, engine: Engine) -> None:
        ledger = SqlLedger(engine)
        base = ledger.load().base
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE models"))
        with pytest.raises(LedgerUnreachable) as caught:
            ledger.record(base, Advance(SHA, [record("a")]))
        assert "svc-alice-a" not in str(caught.value)
        assert "INSERT" not in str(caught.value)
        assert caught.value.__suppress_context__
