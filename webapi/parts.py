"""What the handlers work with: one value, put together here at start, kept in the Flask app."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from flask import Flask, current_app
from sqlalchemy import Engine

from reconciler.errors import ArgusError
from reconciler.settings import Settings
from reconciler.shell import wake
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import Accounts, EngineLog, LedgerReader, Outbox, SqlLedger, VerdictReader
from reconciler.shell.signing_key import signature
from reconciler.shell.source import GitSource
from webapi.store import SpecStore

log = logging.getLogger(__name__)

_NAME = "argus"


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of one API process."""

    settings: Settings
    store: SpecStore
    folders: DiskModelFolders
    reader: LedgerReader
    verdicts: VerdictReader
    accounts: Accounts
    ledger: SqlLedger
    engine_log: EngineLog
    outbox: Outbox
    admin_token: str

    @classmethod
    def from_settings(cls, settings: Settings, ledger: Engine, admin_token: str) -> Self:
        """Put them together as the configuration says, over a ledger that is open. Raises SourceUnreachable."""
        reader = LedgerReader(ledger)
        return cls(
            settings=settings,
            store=SpecStore(GitSource.from_settings(settings, reader.rulings), reader, sign=signature(settings)),
            folders=DiskModelFolders(settings.private_root),
            reader=reader,
            verdicts=VerdictReader(ledger),
            accounts=Accounts(ledger),
            ledger=SqlLedger(ledger),
            engine_log=EngineLog(ledger),
            outbox=Outbox(ledger),
            admin_token=admin_token,
        )

    def nudge(self) -> None:
        """Ask the reconciler for a pass at once. If that fails, its interval finds the commit a little later."""
        try:
            self.ledger.nudge()
            wake.ring(self.settings.home)
        except ArgusError as error:
            log.warning("the reconciler could not be nudged: %s", error)


def keep(app: Flask, platform: Parts) -> None:
    """Make `platform` what the handlers of `app` work with."""
    app.extensions[_NAME] = platform


def parts() -> Parts:
    """Give what the current request's handlers work with."""
    found: Parts = current_app.extensions[_NAME]
    return found
