"""The ledger: what was done and seen, in a relational database through SQLAlchemy Core.

Here live its tables and their migrations (`schema`), the way a database is opened, locked and written to (`engine`,
the only file that knows one database from another), values as rows (`rows`), and seven views of it: the loop's
(`SqlLedger`), the API's reading side (`LedgerReader`, `VerdictReader`), users with their tokens (`Accounts`), the
routing table for fronts (`SqlBoard`), what engines printed (`EngineLog`), what is to be told to the outside (`Outbox`),
and the lease under which one reconciler of several works (`SqlLeases`). No decision about a model is made here, and
nothing here knows git or Serve.

    engine = open_ledger(settings.ledger_url, settings.ledger.timeout_s)
    SqlLedger(engine), LedgerReader(engine), Accounts(engine)

An engine may be shared by threads. Each process opens its own, after any fork. Every method raises LedgerUnreachable
where the database does not answer in time.
"""

from reconciler.shell.ledger.accounts import Accounts, IssuedToken, TokenInfo, UnknownUser, User
from reconciler.shell.ledger.board import SqlBoard
from reconciler.shell.ledger.engine import open_engine as open_ledger
from reconciler.shell.ledger.engine_log import Batch, EngineLog
from reconciler.shell.ledger.lease import SqlLeases
from reconciler.shell.ledger.loop import SqlLedger
from reconciler.shell.ledger.outbox import Entry, Outbox
from reconciler.shell.ledger.reading import LedgerReader
from reconciler.shell.ledger.verdicts import VerdictReader

__all__ = [
    "Accounts",
    "Batch",
    "EngineLog",
    "Entry",
    "IssuedToken",
    "LedgerReader",
    "Outbox",
    "SqlBoard",
    "SqlLeases",
    "SqlLedger",
    "TokenInfo",
    "UnknownUser",
    "User",
    "VerdictReader",
    "open_ledger",
]
