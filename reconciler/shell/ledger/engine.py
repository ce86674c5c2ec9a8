"""Opening the database, and the few things in which one database differs from another.

SQLite and PostgreSQL are known; every statement that only one of them understands stands in this file.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reconciler.errors import LedgerLost, LedgerUnreachable, SettingsError
from reconciler.shell.ledger import schema
from reconciler.shell.ledger.file import LedgerFile

_RIGHT = "right would be sqlite:////folder/ledger.sqlite or postgresql+psycopg://user:password@host/database"
# Both kinds of INSERT know ON CONFLICT, in the same words; no common class says so.
_INSERT: dict[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_WRITES = "argus_writes"
_FILES: WeakKeyDictionary[Engine, LedgerFile] = WeakKeyDictionary()
_SCHEMA_LOCK = 0x41726775  # any number that no other user of the same PostgreSQL database locks: "Argu"


def open_engine(
    url: str, timeout_s: float, on_lost: Callable[[], None] = lambda: None, *, migrate: bool = True
) -> Engine:
    """Open the ledger at an SQLAlchemy `url` and bring its tables up to date.

    No statement, connection attempt or wait for a lock takes longer than `timeout_s` seconds. An SQLite file is made
    where there is none, readable by its owner alone, and one that is broken is set aside. Where the file is lost later
    (`file`), every use raises LedgerLost, and `on_lost` is called once, on the thread that saw it first.
    Raises SettingsError where the URL cannot be used or the tables are from a newer Argus, and LedgerUnreachable.
    Without `migrate` the tables are taken as they are.
    """
    parsed = _parse(url)
    try:
        engine = _open(parsed, timeout_s, migrate=migrate)
    except LedgerLost:  # it was broken, and is set aside now
        engine = _open(parsed, timeout_s, migrate=migrate)
    if file := _FILES.get(engine):
        file.on_lost = on_lost
    return engine


def _open(parsed: URL, timeout_s: float, *, migrate: bool) -> Engine:
    if parsed.get_backend_name() == "sqlite":
        engine = _open_sqlite(parsed, timeout_s)
    else:
        engine = _open_postgresql(parsed, timeout_s)
    if not migrate:
        return engine
    try:
        with writing(engine) as connection:
            _lock_schema(connection)
            schema.migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction. Raises LedgerUnreachable."""
    with _scrubbed(engine), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction, committed at the end, undone by any exception. Raises LedgerUnreachable."""
    with _scrubbed(engine), engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        yield connection


def insert_absent(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is not in `table` yet; leave the others as they are."""
    if rows:
        connection.execute(_INSERT[connection.dialect.name](table).on_conflict_do_nothing(), list(rows))


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert one row unless its primary key is in `table` already; say whether it was new."""
    insert = _INSERT[connection.dialect.name](table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(insert, dict(row)).first() is not None


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    only_where: ColumnElement[bool] | None = None,
) -> None:
    """Insert rows, or replace every column of those whose primary key is there already.

    A row that is there and of which `only_where` does not hold stays as it is.
    """
    if not rows:
        return
    insert = _INSERT[connection.dialect.name](table)
    replaced = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    keys = list(table.primary_key.columns)
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=replaced, where=only_where), list(rows))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        # `from None` here and below: SQLAlchemy's own exceptions may quote the URL, and with it the password.
        raise SettingsError(f"key 'ledger.url': not a database URL that Argus knows; {_RIGHT}") from None
    if backend not in _INSERT:
        raise SettingsError(f"key 'ledger.url': the ledger cannot be kept in {backend}; {_RIGHT}")
    return parsed


def _open_sqlite(url: URL, timeout_s: float) -> Engine:
    path = url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise SettingsError(f"key 'ledger.url': SQLite keeps the ledger in a file, given by its path; {_RIGHT}")
    file = LedgerFile(Path(path))
    file.make()
    engine = _create(url, connect_args={"timeout": timeout_s}, pool_timeout=timeout_s)
    _FILES[engine] = file

    # Before a connection is made too: whoever has lost the file keeps away from the one that took its place.
    @event.listens_for(engine, "do_connect")
    def is_the_one(_dialect: object, _record: object, _arguments: object, _options: object) -> None:
        file.check()

    @event.listens_for(engine, "checkout")
    def is_still_there(_dbapi: object, _record: object, _proxy: object) -> None:
        file.check()

    @event.listens_for(engine, "connect")
    def prepare(dbapi: Any, _record: object) -> None:
        # The driver's own transaction handling begins too late and cannot say IMMEDIATE: `begin` below does it.
        dbapi.isolation_level = None
        dbapi.execute(f"PRAGMA busy_timeout = {math.ceil(timeout_s * 1000)}")
        dbapi.execute("PRAGMA foreign_keys = ON")
        # In WAL mode, NORMAL may lose the last transactions at power failure; what was answered must not be lost.
        dbapi.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once where somebody wrote in between, whatever the
        # timeout: whoever is going to write takes the lock, and waits for it, at the beginning.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")

    _switch_to_wal(engine, file, timeout_s)
    return engine


def _switch_to_wal(engine: Engine, file: LedgerFile, timeout_s: float) -> None:
    """Switch the file to WAL. SQLite itself does not wait for the lock that this takes."""
    deadline = time.monotonic() + timeout_s
    with _scrubbed(engine), file.alone():
        connection = engine.raw_connection()
        try:
            while True:
                try:
                    connection.cursor().execute("PRAGMA journal_mode = WAL")
                except engine.dialect.loaded_dbapi.OperationalError as error:
                    if "locked" not in str(error):
                        raise LedgerUnreachable(f"the ledger {engine.url.database} cannot be used: {error}") from None
                    if time.monotonic() > deadline:
                        raise LedgerUnreachable(f"the ledger {engine.url.database} is locked") from None
                    time.sleep(0.02)
                else:
                    return
        finally:
            connection.close()


def _open_postgresql(url: URL, timeout_s: float) -> Engine:
    limit_ms = math.ceil(timeout_s * 1000)
    arguments: dict[str, Any] = {}
    if url.get_driver_name() in {"psycopg", "psycopg2"}:  # both hand these to libpq, which waits for ever by default
        arguments = {"connect_timeout": max(2, math.ceil(timeout_s)), "tcp_user_timeout": limit_ms}
    engine = _create(url, connect_args=arguments, pool_timeout=timeout_s, pool_pre_ping=True)

    @event.listens_for(engine, "connect")
    def limit(dbapi: Any, _record: object) -> None:
        cursor = dbapi.cursor()
        cursor.execute(f"SET statement_timeout = {limit_ms}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {limit_ms}")
        cursor.close()
        dbapi.commit()

    return engine


def _create(url: URL, **options: Any) -> Engine:
    try:
        # hide_parameters: a statement's values (a token's digest among them) are no part of an error's text.
        engine = create_engine(url, hide_parameters=True, pool_size=8, max_overflow=24, **options)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"key 'ledger.url': {url.drivername} needs the Python package '{error.name}', which is not installed"
        ) from None
    _refuse_connections_of_a_parent_process(engine)
    return engine


def _refuse_connections_of_a_parent_process(engine: Engine) -> None:
    """Keep a forked worker from using its parent's connections: two processes on one would mix their answers."""

    @event.listens_for(engine, "connect")
    def note(_dbapi: object, record: Any) -> None:
        record.info["pid"] = os.getpid()

    @event.listens_for(engine, "checkout")
    def check(_dbapi: object, record: Any, proxy: Any) -> None:
        if record.info["pid"] != os.getpid():
            record.dbapi_connection = proxy.dbapi_connection = None
            raise DisconnectionError("opened before the fork")


def _lock_schema(connection: Connection) -> None:
    """Let one process at a time change the tables. SQLite's BEGIN IMMEDIATE has done so already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SCHEMA_LOCK})


@contextmanager
def _scrubbed(engine: Engine) -> Iterator[None]:
    """Turn what a database says of itself into LedgerUnreachable, without the statement, its values or a password."""
    try:
        yield
    except (DBAPIError, PoolTimeout, DisconnectionError, engine.dialect.loaded_dbapi.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if (file := _FILES.get(engine)) is not None and (lost := file.explain(cause)) is not None:
            raise lost from None
        said = _without_secrets(str(cause).strip().partition("\n")[0], engine.url)
        raise LedgerUnreachable(f"the ledger at {_shown(engine.url)} does not answer: {said}") from None
    except StatementError as error:
        raise (error.orig or error) from None  # a value of the caller's that no column takes


def _shown(url: URL) -> str:
    """Say where a database is, without user, password and options."""
    host = f"{url.host or ''}{f':{url.port}' if url.port else ''}"
    return f"{url.get_backend_name()}://{host}/{url.database or ''}"


def _without_secrets(said: str, url: URL) -> str:
    secrets = [str(url.password)] if url.password else []
    for value in url.query.values():
        secrets += [value] if isinstance(value, str) else list(value)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            said = said.replace(form, "***")
    return said
