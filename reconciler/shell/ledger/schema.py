"""The tables, and how a ledger of an earlier version becomes one of this version.

A new ledger gets all tables as they stand here. An existing one is taken through `MIGRATIONS` from its version on,
each a function that is never changed once it was released; both roads must end at the same tables.

Free text (an author's name, a message) is kept inside JSON only, ASCII-escaped: no database takes every string that
git or an engine may say, and a stranger's text must not be able to end a pass. Columns hold what is queried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from reconciler.errors import SettingsError


class UtcTime(TypeDecorator[datetime]):
    """A moment, kept as UTC without a zone, to the microsecond. Refuses datetimes without a timezone (ValueError)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Take the zone away, in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a timezone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say that it was UTC."""
        return value.replace(tzinfo=UTC) if value is not None else None


class Name(TypeDecorator[str]):
    """A key, an id, a state or a SHA. Ordered by bytes in every database, so that pages follow Python's order.

    All real ones are printable ASCII. A stranger may ask for others: they are spelt with backslashes, which no name
    holds, and so are found nowhere instead of being an error of the database.
    """

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Keep PostgreSQL from ordering by its locale."""
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Spell out what is not ASCII, and NUL, which PostgreSQL takes in no text."""
        return None if value is None else value.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")


# Only an INTEGER PRIMARY KEY counts up by itself in SQLite.
_Count = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

schema_version = Table(
    "schema_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("user_id", Name, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", Name, primary_key=True),
    Column("user_id", Name, ForeignKey("users.user_id"), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime, nullable=True),
    Index("tokens_by_user", "user_id", "token_id"),
)

models = Table(
    "models",
    metadata,
    Column("model_key", Name, primary_key=True),
    Column("user_id", Name, nullable=False),
    Column("suffix", Name, nullable=False),
    Column("state", Name, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("commit_sha", Name, nullable=False),
    Column("serving_commit_sha", Name, nullable=True),
    Column("record", Text, nullable=False),
    Index("models_by_user", "user_id", "model_key"),
)
"""One row for every model ever seen. `record` is the whole value; the other columns are copies of parts of it."""

events = Table(
    "events",
    metadata,
    Column("id", _Count, primary_key=True, autoincrement=True),
    Column("model_key", Name, nullable=False),
    Column("event_type", Name, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("commit_sha", Name, nullable=False),
    Column("event", Text, nullable=False),
    Index("events_by_model", "model_key", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, so that a reader's "after" stays true
)

loop = Table(
    "loop",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("base", BigInteger, nullable=False),
    Column("revision", Name, nullable=True),
)

nudges = Table(
    "nudges",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
)

platform_status = Table(
    "platform_status",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("status", Text, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)
"""The routing table that fronts work from, as JSON."""

load_times = Table(
    "load_times",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)
"""How long models took to load (`core.estimates.LoadTimes`), as JSON."""

upkeep = Table(
    "upkeep",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)
"""What is remembered of the application in Serve, and of drift in it (`core.upkeep.Upkeep`), as JSON."""

engine_log = Table(
    "engine_log",
    metadata,
    Column("model_key", Name, primary_key=True),
    Column("last", BigInteger, primary_key=True, autoincrement=False),
    Column("lines", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("document", Text, nullable=False),
)
"""What a model's engines printed: one row for what was read at a time, with the number of its last line."""

engine_log_sources = Table(
    "engine_log_sources",
    metadata,
    Column("source", Name, primary_key=True),
    Column("position", Name, nullable=False),
    Column("moved_at", UtcTime, nullable=False),
)
"""How far the output of each replica has been read into `engine_log`."""

identities = Table(
    "identities",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", Name, nullable=False),
    Column("document", Text, nullable=False),
)
"""Who was who when the branch's history was last rewritten (`core.identity.Carried`), model keys by path as JSON."""

lease = Table(
    "lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("token", BigInteger, nullable=False),
    Column("holder", Text, nullable=True),
    Column("renewals", BigInteger, nullable=False),
    Column("patience_ms", BigInteger, nullable=False),
)
"""Which reconciler works (`core.lease`). Nothing in it is a time of day."""

rulings = Table(
    "rulings",
    metadata,
    Column("commit_sha", Name, primary_key=True),
    Column("path", Name, primary_key=True),
)
"""What of the branch up to `loop.revision` does not count (`core.ownership`): usually nothing, or little."""

verdicts = Table(
    "verdicts",
    metadata,
    Column("commit_sha", Name, primary_key=True),
    Column("path", Name, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("user_id", Name, nullable=False),
    Column("model_key", Name, nullable=False),
    Column("verdict", Name, nullable=True),
    Column("phase", Name, nullable=False),
    Column("document", Text, nullable=False),
    Index("verdicts_by_number", "number"),
    Index("verdicts_by_user", "user_id", "number"),
    Index("verdicts_by_phase", "phase", "number"),
)
"""One row for each spec file that a commit touched, kept for ever: about 1 KB each with its indexes.

`document` is the whole `Case`; the other columns are copies of parts of it. `number` is the commit's: it grows in the
order in which commits came. `phase` is OPEN, CLOSED (with a verdict that no git note has yet) or PUBLISHED.
"""

outbox = Table(
    "outbox",
    metadata,
    Column("id", Name, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("destination", Name, nullable=False),
    Column("state", Name, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("next_at", UtcTime, nullable=False),
    Column("claimed_until", UtcTime, nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("trouble", Text, nullable=True),
    Index("outbox_by_state", "state", "destination", "next_at", "number"),
    Index("outbox_by_number", "number"),
)
"""What is to be told to the outside (`core.announcements`) and has not arrived yet; what has is deleted.

`number` grows with everything that is written. `trouble` is what the last attempt came to, as JSON text.
"""

ONLY = 1
"""The id of the one row of a table that has a single one."""

Migration = Callable[[Connection], None]


def _types(connection: Connection) -> tuple[str, str]:
    """Give the types of a `Name` and of a `UtcTime`, in the words of this database."""
    if connection.dialect.name == "postgresql":
        return 'VARCHAR COLLATE "C"', "TIMESTAMP WITHOUT TIME ZONE"
    return "VARCHAR", "DATETIME"


def _add_routes(connection: Connection) -> None:
    connection.execute(
        text("CREATE TABLE routes (id INTEGER NOT NULL PRIMARY KEY, number BIGINT NOT NULL, document TEXT NOT NULL)")
    )


def _add_load_times(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE load_times (id INTEGER NOT NULL PRIMARY KEY, document TEXT NOT NULL)"))


def _add_engine_log(connection: Connection) -> None:
    name, moment = _types(connection)
    connection.execute(
        text(
            f"CREATE TABLE engine_log (model_key {name} NOT NULL, last BIGINT NOT NULL, "
            f"lines INTEGER NOT NULL, bytes INTEGER NOT NULL, created_at {moment} NOT NULL, document TEXT NOT NULL, "
            "PRIMARY KEY (model_key, last))"
        )
    )
    connection.execute(
        text(
            f"CREATE TABLE engine_log_sources (source {name} NOT NULL, position {name} NOT NULL, "
            f"moved_at {moment} NOT NULL, PRIMARY KEY (source))"
        )
    )


def _add_identities(connection: Connection) -> None:
    name, _ = _types(connection)
    connection.execute(
        text(
            "CREATE TABLE identities "
            f"(id INTEGER NOT NULL PRIMARY KEY, revision {name} NOT NULL, document TEXT NOT NULL)"
        )
    )


def _add_lease(connection: Connection) -> None:
    connection.execute(
        text(
            "CREATE TABLE lease (id INTEGER NOT NULL PRIMARY KEY, token BIGINT NOT NULL, holder TEXT, "
            "renewals BIGINT NOT NULL, patience_ms BIGINT NOT NULL)"
        )
    )
    connection.execute(text("INSERT INTO lease (id, token, renewals, patience_ms) VALUES (1, 0, 0, 0)"))


def _add_verdicts(connection: Connection) -> None:
    name, _ = _types(connection)
    connection.execute(
        text(
            f"CREATE TABLE verdicts (commit_sha {name} NOT NULL, path {name} NOT NULL, number BIGINT NOT NULL, "
            f"user_id {name} NOT NULL, model_key {name} NOT NULL, verdict {name}, phase {name} NOT NULL, "
            "document TEXT NOT NULL, PRIMARY KEY (commit_sha, path))"
        )
    )
    for index, columns in (("number", "number"), ("user", "user_id, number"), ("phase", "phase, number")):
        connection.execute(text(f"CREATE INDEX verdicts_by_{index} ON verdicts ({columns})"))


def _add_rulings(connection: Connection) -> None:
    name, _ = _types(connection)
    connection.execute(
        text(f"CREATE TABLE rulings (commit_sha {name} NOT NULL, path {name} NOT NULL, PRIMARY KEY (commit_sha, path))")
    )


def _add_outbox(connection: Connection) -> None:
    name, moment = _types(connection)
    connection.execute(
        text(
            f"CREATE TABLE outbox (id {name} NOT NULL, number BIGINT NOT NULL, destination {name} NOT NULL, "
            f"state {name} NOT NULL, since {moment} NOT NULL, next_at {moment} NOT NULL, claimed_until {moment}, "
            "attempts INTEGER NOT NULL, body TEXT NOT NULL, trouble TEXT, PRIMARY KEY (id))"
        )
    )
    connection.execute(text("CREATE INDEX outbox_by_state ON outbox (state, destination, next_at, number)"))
    connection.execute(text("CREATE INDEX outbox_by_number ON outbox (number)"))


def _add_upkeep(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE upkeep (id INTEGER NOT NULL PRIMARY KEY, document TEXT NOT NULL)"))


MIGRATIONS: tuple[Migration, ...] = (
    _add_routes,
    _add_load_times,
    _add_engine_log,
    _add_identities,
    _add_lease,
    _add_verdicts,
    _add_rulings,
    _add_outbox,
    _add_upkeep,
)
"""In order. The first leads from version 1 to version 2."""


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the tables to version 1 + `len(migrations)`. The caller holds the lock and the transaction.

    Raises SettingsError where the ledger was written by a newer Argus: an older one must not touch what it does not
    understand.
    """
    current = 1 + len(migrations)
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(id=ONLY, version=current))
        connection.execute(insert(loop).values(id=ONLY, base=0, revision=None))
        connection.execute(insert(nudges).values(id=ONLY, count=0))
        connection.execute(insert(lease).values(id=ONLY, token=0, holder=None, renewals=0, patience_ms=0))
        return
    found = connection.execute(select(schema_version.c.version).where(schema_version.c.id == ONLY)).scalar_one()
    if found > current:
        raise SettingsError(
            f"key 'ledger.url': this ledger has schema version {found} and this Argus knows versions up to {current}; "
            "run the newer Argus, or give another ledger"
        )
    for step in migrations[found - 1 :]:
        step(connection)
    if found < current:
        connection.execute(update(schema_version).where(schema_version.c.id == ONLY).values(version=current))
